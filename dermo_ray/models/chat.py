"""From conversations to the text and tokens of a policy's chat template.

Invariant: a prompt is tokenised by itself, never together with what follows it, so that a trained sequence begins with
exactly the tokens the engine is given, and sampled ids are trained on as they were sampled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin

from dermo_ray.errors import UserError
from dermo_ray.prompts import IMAGE_PLACEHOLDER

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def load_processor(folder: Path) -> ProcessorMixin:
    """The tokenizer and image processor saved with a model. Raises `UserError` where they are not there."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: config.json is missing")
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise UserError(
            f"{folder} has no processor: copy preprocessor_config.json and the tokenizer beside the weights"
        )
    return AutoProcessor.from_pretrained(folder, local_files_only=True)


def prompt_text(processor: ProcessorMixin, turns: Sequence[Mapping[str, str]]) -> str:
    """The conversation so far, ready for an answer: one placeholder for each image, not yet expanded."""
    return processor.apply_chat_template(_messages(turns), add_generation_prompt=True, tokenize=False)


def answer_texts(processor: ProcessorMixin, turns: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
    """The whole conversation in pieces of text; the flag says which are the assistant's and are trained on.

    The first piece is `prompt_text` of the first human turns. An assistant's piece ends with the end-of-turn token.
    Raises `UserError` where the chat template rewrites earlier turns, so that the pieces can't be told apart.
    """
    pieces: list[tuple[str, bool]] = []
    done = ""
    for end, turn in enumerate(turns):
        if turn["from"] != "gpt":
            continue
        prompt = prompt_text(processor, turns[:end])
        answer = f"{turn['value']}{processor.tokenizer.eos_token}"
        if not prompt.startswith(done):
            raise UserError(
                "the model's chat template rewrites earlier turns: conversations can't be trained on as they are"
            )
        pieces += [(prompt[len(done) :], False), (answer, True)]
        done = prompt + answer
    return pieces


def end_of_turn_id(processor: ProcessorMixin) -> int:
    """The one token that ends an answer."""
    return processor.tokenizer.eos_token_id


def banned_token_ids(processor: ProcessorMixin, vocabulary_size: int) -> list[int]:
    """Ids the policy may never write: image placeholders, other special tokens, and rows without a token.

    A sampled placeholder would ask the learner for an image that isn't there. Not every tokenizer calls it special.
    """
    tokenizer = processor.tokenizer
    known = [getattr(processor, f"{kind}_token_id", None) for kind in ("image", "video")]
    placeholders = {id_ for id_ in known if id_ is not None}
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused = set(range(len(tokenizer), vocabulary_size))
    return sorted((special | placeholders | unused) - {tokenizer.eos_token_id})


def _messages(turns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    messages = []
    for turn in turns:
        first, *rest = turn["value"].split(IMAGE_PLACEHOLDER)
        content = [{"type": "text", "text": first}] if first else []
        for text in rest:
            content.append({"type": "image"})
            if text.strip():
                content.append({"type": "text", "text": text.lstrip("\n")})
        messages.append({"role": _ROLES[turn["from"]], "content": content})
    return messages
