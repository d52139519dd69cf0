"""Images as clients send them become pictures, or a refusal that says what is wrong with them.

Invariant: nothing is decoded whose header announces more than the settings allow, and no format but JPEG, PNG and WebP
is even tried, whatever a file calls itself; what is handed on was decoded to its last row.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from dermo_ray.config.safety import SafetySettings
from serve.safety.errors import Refused
from serve.safety.messages import image_places
from serve.safety.remote import RemoteImages

_FORMATS = ("JPEG", "PNG", "WEBP")
_DATA = "data:"
_HEADS = {f"image/{kind};base64" for kind in ("jpeg", "jpg", "png", "webp")}
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""More than 8 bits a pixel in one channel: turned into RGB they would be white where they are not black."""
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 100
"""A progressive JPEG has about ten; each costs as much time as decoding the whole picture once."""
_DECODERS = 2
"""Pictures decoded at once: more threads would only add up their memory."""


class Images:
    """Opens the images of requests within the limits of `settings`."""

    def __init__(self, settings: SafetySettings, remote: RemoteImages | None = None) -> None:
        self._settings = settings
        self._remote = remote or RemoteImages(settings)
        self._decoding = asyncio.Semaphore(_DECODERS)

    async def open(self, url: str, param: str = "image") -> Image.Image:
        """The picture in a data URI, or at an address that may be fetched: upright, RGB.

        Raises `Refused` (400) for what is no such picture; its `param` is `param`.
        """
        (image,) = await self._open_all([(url, param)])
        return image

    async def check_messages(self, body: dict[str, Any]) -> list[Image.Image]:
        """The pictures of a chat request in order, upright and RGB.

        A remote image becomes a data URI in `body`; nothing else of it changes. Raises `Refused` (400) for an image
        that `open` would refuse, for too many, and for parts of the request that are not taken (see `image_places`).
        """
        places = image_places(body)
        if len(places) > self._settings.max_images:
            message = f"{len(places)} images were sent; {self._settings.max_images} are allowed in a request."
            raise Refused(400, message, code="too_many_images", param="messages")
        opened = await self._open_all([(place.url, place.param) for place in places])
        for place, image in zip(places, opened, strict=True):
            if not place.url.startswith(_DATA):
                place.holder[place.key] = await asyncio.to_thread(_data_uri, image)
        return opened

    async def close(self) -> None:
        """Close the connections to other hosts."""
        await self._remote.close()

    async def _open_all(self, sent: Sequence[tuple[str, str]]) -> list[Image.Image]:
        files = [(await self._read(url, param), param) for url, param in sent]
        async with self._decoding:
            return await asyncio.to_thread(_decode_all, files, self._settings)

    async def _read(self, url: str, param: str) -> bytes:
        if url.startswith(_DATA):
            return _data_of(url, param)
        return await self._remote.fetch(url, param)


def _data_of(uri: str, param: str) -> bytes:
    """The bytes in a data URI (RFC 2397) of an image in base64."""
    head, _, text = uri.removeprefix(_DATA).partition(",")
    if head not in _HEADS:
        message = "The image must be a data URI `data:image/jpeg;base64,...`; PNG and WebP are taken as well."
        raise Refused(400, message, code="invalid_image_url", param=param)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "The image's data URI is not valid base64.", code="invalid_base64", param=param) from None


def _decode_all(files: Sequence[tuple[bytes, str]], settings: SafetySettings) -> list[Image.Image]:
    """The pictures in `files` (bytes and param), decoded once all their headers are found within the limits."""
    images = [(_header(data, param, settings), param) for data, param in files]
    pixels = sum(image.width * image.height for image, _ in images)
    if pixels > settings.max_pixels:
        message = f"The images have {pixels:,} pixels; {settings.max_pixels:,} are allowed in a request."
        raise Refused(400, message, code="image_too_large", param=images[-1][1])
    return [_pixels(image, param) for image, param in images]


def _header(data: bytes, param: str, settings: SafetySettings) -> Image.Image:
    """The image with its header read, no pixel decoded yet."""

    def refuse(message: str, code: str) -> Refused:
        return Refused(400, message, code=code, param=param)

    if not data:
        raise refuse("The image is empty.", "empty_image")
    try:
        image = Image.open(BytesIO(data), formats=_FORMATS)
        frames = getattr(image, "n_frames", 1)
    except UnidentifiedImageError:
        raise refuse("The file is no JPEG, PNG or WebP image.", "unsupported_image_format") from None
    except Image.DecompressionBombError:
        raise refuse(f"The image has more than {settings.max_pixels:,} pixels.", "image_too_large") from None
    except Exception:  # damaged headers make decoders raise nearly anything, from struct.error to SyntaxError
        raise _damaged(param) from None
    short, long = sorted(image.size)
    if short * long > settings.max_pixels:
        message = f"The image has {short * long:,} pixels; {settings.max_pixels:,} are allowed in a request."
        raise refuse(message, "image_too_large")
    if short < settings.min_side:
        message = f"The image is {short} pixels on its shorter side; it needs {settings.min_side}."
        raise refuse(message, "image_too_small")
    if long / short > settings.max_aspect_ratio:
        ratio = f"{settings.max_aspect_ratio:g}"
        raise refuse(f"The image is more than {ratio} times as long as it is wide.", "image_too_narrow")
    if frames > 1 and image.format != "MPO":  # a telephone's JPEG with a second picture beside the first
        raise refuse("The image is animated. Send one still picture.", "animated_image")
    if image.mode in _DEEP_MODES:
        raise refuse("The image has 16 or more bits a pixel in one channel. Send 8.", "unsupported_image_depth")
    if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > _MAX_SCANS:
        raise refuse("The JPEG has too many scans.", "unsupported_image_format")
    return image


def _pixels(image: Image.Image, param: str) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        shown = upright.convert("RGBA")  # on white, as training and vLLM see it; below it stands anything
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    except Exception:  # as above; a truncated file is an OSError among them
        raise _damaged(param) from None


def _data_uri(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return f"{_DATA}image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _damaged(param: str) -> Refused:
    return Refused(400, "The image is damaged or cut short.", code="damaged_image", param=param)
