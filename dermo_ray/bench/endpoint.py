"""Items answered by an OpenAI-compatible server, ours included.

Images go as PNG data URIs, so that the server sees the very pixels of each view. Every sampling field is sent; a server
that refuses one is told so by `extra_body` with null.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from openai.types.chat import ChatCompletion
from PIL import Image

from dermo_ray.asking.endpoint import completion_client
from dermo_ray.bench.answering import Asked, Respond, respond
from dermo_ray.bench.images import read_images
from dermo_ray.bench.responses import Response
from dermo_ray.bench.tasks import BenchItem
from dermo_ray.cct import Sample, decode_tokens
from dermo_ray.config.asking import EndpointSettings
from dermo_ray.config.bench import BenchSettings, Method, PolicySettings
from dermo_ray.prompts import IMAGE_PLACEHOLDER
from dermo_ray.records import Turn
from dermo_ray.taxonomy import Taxonomy

_ROLES = {"human": "user", "gpt": "assistant"}


@asynccontextmanager
async def endpoint_policy(
    policy: PolicySettings, settings: BenchSettings, taxonomy: Taxonomy
) -> AsyncIterator[Respond]:
    """The server of `policy.endpoint`, which must be set. Raises `UserError` where the environment lacks its key."""
    endpoint = policy.endpoint
    if endpoint is None:
        raise ValueError(f"policy {policy.name} has no endpoint")
    async with completion_client(endpoint, settings, f"policy {policy.name}") as complete:

        async def sample(
            image: Image.Image, prompt: Asked, *, temperature: float, seed: int, top_logprobs: int
        ) -> Sample:
            body = await asyncio.to_thread(request, endpoint, image, prompt, temperature, seed, top_logprobs)
            return as_sample(await complete(body))

        async def answer(item: BenchItem, method: Method) -> Response:
            images = await asyncio.to_thread(read_images, item.images, settings.max_pixels)
            return await respond(sample, item, images, method, settings, taxonomy)

        yield answer


def request(
    endpoint: EndpointSettings, image: Image.Image, asked: Asked, temperature: float, seed: int, top_logprobs: int
) -> dict[str, Any]:
    """The JSON body of one rollout."""
    images = iter([image, *asked.further_images])
    body = {
        "model": endpoint.model,
        "messages": [{"role": _ROLES[turn.from_], "content": _content(turn, images)} for turn in asked.turns],
        "temperature": temperature,
        "top_p": 1.0,
        "max_tokens": asked.max_tokens,
        "seed": seed,
        "logprobs": True,
        "top_logprobs": top_logprobs,
    }
    return {name: value for name, value in (body | endpoint.extra_body).items() if value is not None}


def as_sample(completion: ChatCompletion) -> Sample:
    """The first choice of a completion, with its tokens where the server reports them.

    Tokens that spell another text than the answer (thoughts that were cut off, say) tell nothing about it: they are
    left out, and the rollout has confidence 1.
    """
    choice, usage = completion.choices[0], completion.usage
    text = (choice.message.content or "").encode(errors="replace").decode()  # half a surrogate pair can't be kept
    reported = choice.logprobs.content if choice.logprobs is not None and choice.logprobs.content else []
    # a token may be a part of a character: its bytes say which
    spelt = [bytes(token.bytes) if token.bytes is not None else token.token.encode() for token in reported]
    tokens = decode_tokens(lambda parts: b"".join(parts).decode(errors="replace"), spelt) if spelt else []
    known = bool(tokens) and "".join(tokens).startswith(text)
    likeliest = [{top.token: top.logprob for top in token.top_logprobs} for token in reported]
    return Sample(
        text=text,
        tokens=tokens if known else (),
        logprobs=[token.logprob for token in reported] if known else (),
        top_logprobs=likeliest if known and any(likeliest) else (),
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )


def _content(turn: Turn, images: Iterator[Image.Image]) -> str | list[dict[str, Any]]:
    """A turn's text with an image for each marker; text alone where there is none."""
    first, *rest = turn.value.split(IMAGE_PLACEHOLDER)
    if not rest:
        return turn.value
    parts: list[dict[str, Any]] = [_text(first)] if first.strip() else []
    for text in rest:
        parts.append({"type": "image_url", "image_url": {"url": _data_uri(next(images))}})
        if text.strip():
            parts.append(_text(text.lstrip("\n")))
    return parts


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _data_uri(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
