"""The HTTP API of a replica. Errors have the shape that OpenAI's clients know."""

from types import SimpleNamespace

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelList
from vllm.entrypoints.serve.exception_handling.handlers.exception import exception_handler
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.utils.api_utils import validate_json_request
from vllm.exceptions import VLLMError

from serve.chat import PolicyChat


def build_api(chat: PolicyChat) -> FastAPI:
    """The routes over one engine's chat."""
    api = FastAPI(title="DermoRay", description="Research use only: not a medical device, gives no medical advice.")
    api.state.args = SimpleNamespace(log_error_stack=False)  # vLLM's handlers read it
    init_exception_handler(api)
    # vLLM's handler of engine errors would stop a server of its own; here the replica's health check sees a dead engine
    api.add_exception_handler(VLLMError, exception_handler)

    @api.post("/v1/chat/completions", dependencies=[Depends(validate_json_request)])
    async def complete(request: ChatCompletionRequest, raw_request: Request) -> Response:
        """Answer a conversation about images, sent as data URIs."""
        answer = await chat.create_chat_completion(request, raw_request)
        if isinstance(answer, ErrorResponse):
            return JSONResponse(answer.model_dump(), answer.error.code)
        if isinstance(answer, ChatCompletionResponse):
            return JSONResponse(answer.model_dump())
        return StreamingResponse(answer, media_type="text/event-stream")

    @api.get("/v1/models")
    async def models() -> ModelList:
        """The names that can be asked for."""
        return chat.list_models()

    @api.get("/healthz")
    async def health() -> dict[str, str | int]:
        """Which policy answers; an error where the engine is dead."""
        await chat.engine.check_health()
        return {"status": "ok", "model": chat.newest.name, "version": chat.newest.version}

    return api
