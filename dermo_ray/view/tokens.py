"""Token ids back to text, piece by piece."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from dermo_ray.run_directory import TOKENIZER


def load_tokenizer(run: Path) -> Tokenizer | None:
    """The tokenizer that a run was sampled with; None where its directory has none."""
    path = run / TOKENIZER
    return Tokenizer.from_file(str(path)) if path.is_file() else None


def pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text, special tokens included; joined they are the text of them all.

    A character that takes several tokens is the last one's, and the others add nothing.
    """
    stream = DecodeStream(skip_special_tokens=False)
    texts = [stream.step(tokenizer, token) or "" for token in token_ids]
    whole = tokenizer.decode(list(token_ids), skip_special_tokens=False)
    missing = whole[len("".join(texts)) :]  # a character that was cut off
    return [*texts[:-1], texts[-1] + missing] if texts else []
