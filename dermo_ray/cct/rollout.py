"""What CCT works on: a completion as an engine wrote it, and the one answer that was read in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermo_ray.morphology import Morphology


@dataclass(frozen=True)
class Sample:
    """A completion with its tokens.

    `tokens` together spell `text`, and perhaps a stop token after it (`decode_tokens` makes such). `logprobs` are of
    these tokens, in nats; `top_logprobs` hold the likeliest tokens at each place. Where a server reports neither they
    are empty, and every rollout has confidence 1.

    Raises `ValueError` for columns of different lengths.
    """

    text: str
    tokens: Sequence[str] = ()
    logprobs: Sequence[float] = ()
    top_logprobs: Sequence[Mapping[str, float]] = ()
    prompt_tokens: int = 0
    """Tokens of the prompt, image placeholders expanded."""
    completion_tokens: int = 0
    """Tokens generated."""

    def __post_init__(self) -> None:
        """Check the lengths."""
        if len(self.tokens) != len(self.logprobs) or len(self.top_logprobs) not in (0, len(self.tokens)):
            raise ValueError(
                f"{len(self.tokens)} tokens have {len(self.logprobs)} log-probabilities and "
                f"{len(self.top_logprobs)} lists of likeliest tokens: each token needs its own"
            )


@dataclass(frozen=True)
class Rollout:
    """One answer about one view of an image.

    `answer` in canonical spelling (equal strings are one answer); `confidence` in [0, 1]; `morphology` as stated,
    parsed or in the released JSON shape; `option_probabilities` over the options of a multiple choice, which need not
    sum to 1; `view` names the view of the image that was shown.

    Raises `ValueError` for a confidence outside [0, 1] and for option probabilities that are negative, not finite,
    or all 0.
    """

    answer: str
    confidence: float
    morphology: Morphology | Mapping[str, Any] | None = None
    option_probabilities: Mapping[str, float] | None = None
    view: str = "identity"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"the confidence of {self.answer!r} is not in [0, 1]: {self.confidence}")
        if self.option_probabilities is not None:
            values = self.option_probabilities.values()
            if not all(math.isfinite(p) and p >= 0 for p in values) or not any(values):
                raise ValueError(f"option probabilities must be finite, at least 0 and not all 0: {list(values)}")

    @property
    def shares(self) -> dict[str, float]:
        """How the rollout's weight is spread over answers; sums to 1."""
        if self.option_probabilities is None:
            return {self.answer: 1.0}
        total = math.fsum(self.option_probabilities.values())
        return {answer: p / total for answer, p in self.option_probabilities.items()}
