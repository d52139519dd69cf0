"""The images of an item, as a policy is shown them: no larger than is asked for, or none where one can't be read."""

import math

from PIL import Image

from dermo_ray.asking.answers import AskFailed


def read_images(paths: tuple[str, ...], max_pixels: int | None = None) -> list[Image.Image]:
    """The images in RGB, those of more than `max_pixels` scaled down to that.

    Raises `AskFailed` for one that can't be read: the item stays without an answer, the others go on.
    """
    return [_read(path, max_pixels) for path in paths]


def _read(path: str, max_pixels: int | None) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except Image.DecompressionBombError as error:
        raise AskFailed("image_too_large", f"{path}: {error}") from None
    except Exception as error:  # damaged files make decoders raise nearly anything, from struct.error to SyntaxError
        raise AskFailed("unreadable_image", f"{path}: {error}") from None
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    share = math.sqrt(max_pixels / (image.width * image.height))
    return image.resize((max(1, int(image.width * share)), max(1, int(image.height * share))), Image.Resampling.LANCZOS)
