"""Fake samplers: they take the place of an engine, so that inference can be checked without one."""

import asyncio
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dermo_ray.cct import Sample

LETTERS = "ABCD"


@dataclass
class FakeSampler:
    """Answers with whatever `say` makes of the picture's bytes, the temperature and the seed; keeps its calls."""

    say: Callable[[bytes, float, int], Sample]
    calls: list[tuple[bytes, object, float, int, int]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def __call__(
        self, image: Image.Image, prompt: object, *, temperature: float, seed: int, top_logprobs: int
    ) -> Sample:
        self.calls.append((image.tobytes(), prompt, temperature, seed, top_logprobs))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(0)
        try:
            return self.say(image.tobytes(), temperature, seed)
        finally:
            self.running -= 1


def letter_sample(letter: str, probabilities: dict[str, float]) -> Sample:
    """A completion of one letter and the end of the turn, 10 tokens of prompt before it."""
    logs = {name: math.log(p) for name, p in probabilities.items() if p > 0}
    return Sample(letter, [letter, "<|im_end|>"], [logs[letter], 0.0], [logs, {"<|im_end|>": 0.0}], 10, 2)


def noisy_letters(item: int, margin: float, noise: float) -> FakeSampler:
    """A policy that leans to A by `margin` nats, and by `noise` (standard deviation) to whatever a view suggests.

    What a view suggests depends on the item and on the pixels of the view alone.
    """

    def say(pixels: bytes, temperature: float, seed: int) -> Sample:
        suggested = np.random.default_rng([item, zlib.crc32(pixels)]).normal(scale=noise, size=len(LETTERS))
        logits = suggested + margin * np.eye(len(LETTERS))[0]
        masses = np.exp((logits - logits.max()) / (temperature or 1.0))
        p = masses / masses.sum()
        choice = int(p.argmax()) if temperature == 0 else int(np.random.default_rng([item, seed]).choice(len(p), p=p))
        return letter_sample(LETTERS[choice], dict(zip(LETTERS, p.tolist(), strict=True)))

    return FakeSampler(say)
