"""Chat completions by vLLM's own OpenAI classes, answered by a policy version and stamped with it.

Invariants: every answer, each chunk of a stream included, says in `model` and `system_fingerprint` which checkpoint
wrote it; the base model below an adapter never answers in its place; tokens that training bans are never sampled.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from fastapi import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList
from vllm.renderers.online_renderer import OnlineRenderer

from actors.engine import Engine
from serve.checkpoints import Checkpoint


@dataclass(frozen=True)
class ServedPolicy:
    """A checkpoint under the name that clients see."""

    name: str
    """`dermo@step_000040`."""
    version: int

    @property
    def fingerprint(self) -> str:
        """`dermo@step_000040/v40`."""
        return f"{self.name}/v{self.version}"


class PolicyChat(OpenAIServingChat):
    """Answers chat completion requests to `name` and to `name@checkpoint` with the policy of `checkpoint`.

    The engine must hold the checkpoint's base model and, if it has one, its adapter.
    """

    def __init__(self, engine: Engine, name: str, checkpoint: Checkpoint) -> None:
        self.engine = engine
        self.newest = ServedPolicy(f"{name}@{checkpoint.label}", checkpoint.version)
        self.policies = {name: self.newest, self.newest.name: self.newest}
        models = OpenAIServingModels(engine.llm, [BaseModelPath(self.newest.name, str(checkpoint.model.path))])
        if checkpoint.adapter is not None:
            models.lora_requests[self.newest.name] = engine.lora_request(checkpoint.version)
        super().__init__(
            engine.llm,
            models,
            "assistant",
            online_renderer=OnlineRenderer(
                engine.llm.model_config,
                engine.llm.renderer,
                request_logger=None,
                chat_template=None,
                chat_template_content_format="auto",
            ),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
        )

    async def create_chat_completion(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        """The answer: an error, a completion, or the server-sent events of a stream."""
        policy = self.policies.get(request.model or "")
        if policy is None:
            return self.create_error_response(
                f"The model `{request.model}` does not exist. Served here: {', '.join(self.policies)}.",
                err_type="NotFoundError",
                status_code=HTTPStatus.NOT_FOUND,
                param="model",
            )
        if _points_elsewhere(request):
            return self.create_error_response("Send images as data URIs: nothing is fetched.", param="messages")
        bias = {**(request.logit_bias or {}), **{str(token): bias for token, bias in self.engine.penalties.items()}}
        request = request.model_copy(update={"model": policy.name, "logit_bias": bias})
        answer = await super().create_chat_completion(request, raw_request)
        if isinstance(answer, ErrorResponse):
            return answer
        if isinstance(answer, ChatCompletionResponse):
            return answer.model_copy(update={"model": policy.name, "system_fingerprint": policy.fingerprint})
        return _stamped(answer, policy)

    def list_models(self) -> ModelList:
        """What `/v1/models` answers; `root` is the checkpoint behind a name."""
        length = self.model_config.max_model_len
        cards = [
            ModelCard(id=name, root=policy.name, owned_by="dermo-ray", max_model_len=length)
            for name, policy in self.policies.items()
        ]
        return ModelList(data=cards)


def _points_elsewhere(request: ChatCompletionRequest) -> bool:
    """Whether the request names a picture by its address rather than holding it."""
    messages = cast(list[dict[str, Any]], request.messages)
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    parts = [part for content in contents for part in content if isinstance(part, dict)]
    values = [value for part in parts for key, value in part.items() if key.endswith("_url")]
    urls = [value.get("url") if isinstance(value, dict) else value for value in values]
    return any(url and not str(url).startswith("data:") for url in urls)


async def _stamped(events: AsyncIterator[str], policy: ServedPolicy) -> AsyncGenerator[str, None]:
    """The events of a stream, every chunk with the policy's name and fingerprint; vLLM stamps only the last."""
    async for event in events:
        data = event.removeprefix("data: ")
        chunk = None if data.startswith("[DONE]") else json.loads(data)
        if chunk is None or "error" in chunk:
            yield event
        else:
            yield f"data: {json.dumps({**chunk, 'model': policy.name, 'system_fingerprint': policy.fingerprint})}\n\n"
