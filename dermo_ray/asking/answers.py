"""What comes of asking: an answer, or a failure with a name to count it by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and the tokens it read (pictures included) and wrote."""

    text: str
    input_tokens: int
    output_tokens: int


class AskFailed(Exception):
    """One question got no answer. `reason` is a short name to count by, `detail` says more to a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type["AskFailed"], tuple[str, str]]:
        """So that it comes back from another process as it was."""
        return type(self), (self.reason, self.detail)
