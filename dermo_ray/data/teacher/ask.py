"""The seam between what is asked and who answers: an HTTP endpoint or a pool of engines of our own.

An `Ask` answers one question. It repeats what fails in passing (rate limits, timeouts) by itself, raises `AskFailed`
where this question stays without an answer, and anything else where no further question would be answered either.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from dermo_ray.asking.answers import Answer
from dermo_ray.data.teacher.questions import Question


@dataclass(frozen=True)
class Picture:
    """An encoded image as a teacher gets it."""

    data: bytes
    media_type: str

    @classmethod
    def read(cls, path: Path, max_side: int) -> "Picture":
        """The file as it is, or where its longer side exceeds `max_side` pixels, a JPEG scaled down to that."""
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as image:
            if max(image.size) <= max_side:
                return cls(data, Image.MIME[image.format or "JPEG"])
            image.draft("RGB", (max_side, max_side))  # lets a JPEG decode at a fraction of its size
            scaled = image.convert("RGB")
        scaled.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        scaled.save(buffer, "JPEG", quality=92)
        return cls(buffer.getvalue(), "image/jpeg")


Ask = Callable[[Question, Picture, int], Awaitable[Answer]]
"""Takes a question, its picture and how often it was asked before with an unfit answer (0 the first time)."""
