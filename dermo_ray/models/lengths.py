"""How long prompts are, in the engine's tokens, before any engine runs.

Invariant: lengths follow from text and image sizes alone; no image is decoded.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from PIL import Image
from transformers import ProcessorMixin

from dermo_ray.errors import UserError
from dermo_ray.models.chat import prompt_text
from dermo_ray.prompts import IMAGE_PLACEHOLDER
from dermo_ray.records import RLPrompt

_READERS = 16
"""Files opened side by side: on a shared file system each costs a round trip."""


def prompt_length(processor: ProcessorMixin, prompt: str, sizes: Sequence[tuple[int, int]]) -> int:
    """Tokens of a human turn about images of `sizes` (width, height), placeholders expanded."""
    text = prompt_text(processor, [{"from": "human", "value": prompt}])
    tokens = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    return tokens - len(sizes) + _image_tokens(processor, sizes)  # a placeholder is one token before it expands


def refuse_long_prompts(
    processor: ProcessorMixin, prompts: Sequence[RLPrompt], data: Path, max_tokens: int, max_model_len: int
) -> None:
    """Raise `UserError` naming the first prompt that leaves no room for `max_tokens` in the engine's `max_model_len`.

    So too one whose `<image>` marks and images don't match in number. An engine would cut its completions short, and
    they would count as truncated.
    """

    @lru_cache
    def of_text(prompt: str) -> int:
        return prompt_length(processor, prompt, [])

    @lru_cache
    def of_images(sizes: tuple[tuple[int, int], ...]) -> int:
        return _image_tokens(processor, sizes) - len(sizes)

    with ThreadPoolExecutor(_READERS) as executor:
        for prompt, sizes in zip(prompts, executor.map(lambda p: _sizes(data, p), prompts), strict=True):
            if prompt.prompt.count(IMAGE_PLACEHOLDER) != len(sizes):
                raise UserError(
                    f"prompt {prompt.id} shows <image> {prompt.prompt.count(IMAGE_PLACEHOLDER)} times "
                    f"and has {len(sizes)} images: they must be as many"
                )
            length = of_text(prompt.prompt) + of_images(sizes)
            if length + max_tokens > max_model_len:
                raise UserError(
                    f"prompt {prompt.id} has {length} tokens, and with rollout.max_tokens={max_tokens} that is more "
                    f"than rollout.engine.max_model_len={max_model_len}: raise it, or prepare smaller images "
                    "(images.max_side)"
                )


def _image_tokens(processor: ProcessorMixin, sizes: Sequence[tuple[int, int]]) -> int:
    if not sizes:
        return 0
    heights_first = [(height, width) for width, height in sizes]
    counted = processor._get_num_multimodal_tokens(image_sizes=heights_first)  # type: ignore[attr-defined]
    return sum(counted["num_image_tokens"])


def _sizes(data: Path, prompt: RLPrompt) -> tuple[tuple[int, int], ...]:
    sizes = []
    for name in prompt.images:
        try:
            with Image.open(data / name) as file:
                sizes.append(file.size)
        except OSError as error:
            raise UserError(
                f"prompt {prompt.id}: its image {name} can't be read ({error}): prepare {data} again"
            ) from error
    return tuple(sizes)
