"""A teacher behind an OpenAI-compatible HTTP server.

Invariant: a request's body depends on the question, the picture and the settings alone.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dermo_ray.asking.answers import Answer
from dermo_ray.asking.endpoint import chat_client, request_body
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data.teacher.ask import Ask, Picture
from dermo_ray.data.teacher.questions import Question
from dermo_ray.data.teacher.schema import decoding_schema


@asynccontextmanager
async def endpoint_teacher(settings: TeacherSettings) -> AsyncIterator[Ask]:
    """A client of `settings.endpoint`, which must be set. Raises `UserError` where the environment lacks the key."""
    endpoint = settings.endpoint
    if endpoint is None:
        raise ValueError("the settings name no endpoint")
    async with chat_client(endpoint, settings, "the teacher") as chat:

        async def ask(question: Question, picture: Picture, _repetition: int) -> Answer:
            url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
            body = request_body(
                endpoint,
                [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}],
                question.kind,
                decoding_schema(question.schema),
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
            )
            return await chat(body)

        yield ask
