"""Where the images of a chat request are, and which parts of it are not taken.

Invariant: after `image_places` every part of every message is text or an image whose address is in the list; what vLLM
would take beside these (audio, video, embeddings, images by a cache's key, its own loaders' options) was refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.safety.errors import Refused

_FORBIDDEN_FIELDS = (
    "media_io_kwargs",  # how files are decoded
    "mm_processor_kwargs",  # how many pixels the model sees, without a limit
    "chat_template",  # a program
    "kv_transfer_params",  # another engine's memory
    "vllm_xargs",
    "use_beam_search",  # this and the next could choose what training bans
    "allowed_token_ids",
)
_PART_KEYS = {"text": {"type", "text"}, "image_url": {"type", "image_url"}}
_IMAGE_KEYS = {"url", "detail"}
_MAX_SHOWN = 40


@dataclass(frozen=True)
class ImagePlace:
    """One image of a request."""

    holder: dict[str, Any]
    """What holds the address, under `key`."""
    key: str
    param: str
    """How a client would name the place, such as `messages[0].content[1]`."""

    @property
    def url(self) -> str:
        """The address as sent."""
        url: str = self.holder[self.key]
        return url


def image_places(body: Mapping[str, Any]) -> list[ImagePlace]:
    """The images of a chat request, in order. Raises `Refused` (400) for what is not taken, or malformed."""
    for field in _FORBIDDEN_FIELDS:
        if body.get(field) not in (None, False):
            raise _refused(f"The field `{field}` is not taken here.", field, "unsupported_parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _refused("`messages` must be a list with at least one message.", "messages")
    return [place for number, message in enumerate(messages) for place in _places(message, f"messages[{number}]")]


def _places(message: Any, param: str) -> list[ImagePlace]:
    if not isinstance(message, dict):
        raise _refused(f"`{param}` must be an object with `role` and `content`.", param)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return []
    if not isinstance(content, list):
        raise _refused(f"`{param}.content` must be text or a list of parts.", f"{param}.content")
    found = [_place(part, f"{param}.content[{number}]") for number, part in enumerate(content)]
    return [place for place in found if place is not None]


def _place(part: Any, param: str) -> ImagePlace | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PART_KEYS:
        raise _refused(f"`{param}` must have the type `text` or `image_url`.", param, "unsupported_content")
    _check_keys(part, _PART_KEYS[kind], param)
    value = part.get(kind)
    if isinstance(value, dict) and kind == "image_url":
        _check_keys(value, _IMAGE_KEYS, f"{param}.image_url")
        part, kind, value = value, "url", value.get("url")
    if not isinstance(value, str):
        raise _refused(f"`{param}` must hold text under `{kind}`.", param)
    return None if kind == "text" else ImagePlace(part, kind, param)


def _check_keys(part: Mapping[str, Any], known: set[str], param: str) -> None:
    for key in part:
        if key not in known:
            raise _refused(f"`{param}` has the unknown key `{key[:_MAX_SHOWN]}`.", param, "unsupported_parameter")


def _refused(message: str, param: str, code: str = "invalid_value") -> Refused:
    return Refused(400, message, code=code, param=param)
