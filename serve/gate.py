"""The gate: a checkpoint is promoted only if it answers held-out prompts about as well as the one it would replace.

Invariant: both are asked the same prompts, greedily; what gives no diagnosis counts as wrong.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermo_ray.bench.heldout import diagnosis_label
from dermo_ray.completion import parse
from dermo_ray.config.serve import GateSettings
from dermo_ray.data.prompts import PromptOrder, read_prompts
from dermo_ray.errors import UserError
from dermo_ray.prompts import IMAGE_PLACEHOLDER
from dermo_ray.records import RLPrompt
from dermo_ray.taxonomy import Taxonomy
from serve.catalogue import Release
from serve.messages import Answer

Ask = Callable[[Release, dict[str, Any]], Awaitable[Answer]]
"""Asks a release for a chat completion."""

_AT_ONCE = 16
"""Prompts under way together: a gate must leave room for those who wait for an answer."""
_SEED = 0
_ROUNDING = 1e-9
"""Of a difference of two shares."""


@dataclass
class Gate:
    """Held-out prompts with their labels."""

    settings: GateSettings
    taxonomy: Taxonomy
    prompts: list[RLPrompt]
    _measured: dict[str, float] = field(default_factory=dict)
    """Accuracy by checksum."""

    @classmethod
    def open(cls, settings: GateSettings, taxonomy: Path | None) -> "Gate":
        """Read the prompts. Raises `UserError` where none asks for a diagnosis."""
        prompts = [
            prompt
            for prompt in read_prompts(settings.data, settings.split, settings.sources)
            if prompt.ground_truth.task == "task3" and prompt.ground_truth.final_label is not None
        ]
        if not prompts:
            raise UserError(f"no {settings.split} prompt of {settings.data} asks for a diagnosis: no gate without one")
        order = PromptOrder(prompts, _SEED)
        chosen = [order[index] for index in range(min(settings.prompts, len(prompts)))]
        return cls(settings, Taxonomy.load(taxonomy), chosen)

    async def check(self, candidate: Release, current: Release, ask: Ask) -> None:
        """Raise `UserError` where `candidate` is less accurate than `current` by more than the tolerance."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                before, after = await self.accuracy(current, ask), await self.accuracy(candidate, ask)
        except TimeoutError:
            raise UserError(
                f"{candidate.label} did not pass the gate within {self.settings.timeout:g} s (live.gate.timeout)"
            ) from None
        if before - after > self.settings.tolerance + _ROUNDING:
            raise UserError(
                f"{candidate.label} did not pass the gate: accuracy {after:.3f}, {current.label} has {before:.3f} "
                f"(live.gate.tolerance {self.settings.tolerance:g}, {len(self.prompts)} prompts)"
            )

    async def accuracy(self, release: Release, ask: Ask) -> float:
        """Share of the prompts for which `release` states the reference label, by any of its names."""
        if release.checksum not in self._measured:
            room = asyncio.Semaphore(_AT_ONCE)

            async def right(prompt: RLPrompt) -> bool:
                async with room:
                    answer = await ask(release, await asyncio.to_thread(self._question, prompt))
                if not answer.ok:
                    raise UserError(f"{release.label} can't be asked at the gate: {answer.content.decode()[:200]}")
                text = json.loads(answer.content)["choices"][0]["message"]["content"] or ""
                stated = diagnosis_label(parse(text, "task3").diagnosis, self.taxonomy)
                return stated == diagnosis_label(prompt.ground_truth.final_label, self.taxonomy)

            found = await asyncio.gather(*(right(prompt) for prompt in self.prompts))
            self._measured[release.checksum] = sum(found) / len(found)
        return self._measured[release.checksum]

    def _question(self, prompt: RLPrompt) -> dict[str, Any]:
        image = self.settings.data / prompt.image
        kind = "png" if image.suffix == ".png" else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
        text = prompt.prompt.removeprefix(f"{IMAGE_PLACEHOLDER}\n")
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        return {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.settings.max_tokens,
        }
