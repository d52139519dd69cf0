"""Images as small as a page shows them."""

from io import BytesIO
from pathlib import Path

from PIL import Image

_LOSSLESS_SIDE = 256  # pixels; small drawings suffer from JPEG, and are small anyway


def shrunk(path: Path, max_side: int) -> tuple[bytes, str]:
    """The image at most `max_side` pixels wide and high, encoded, and its media type."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((max_side, max_side))
    encoding = "PNG" if max(image.size) <= _LOSSLESS_SIDE else "JPEG"
    buffer = BytesIO()
    image.save(buffer, encoding, quality=85)
    return buffer.getvalue(), f"image/{encoding.lower()}"
