"""A fake teacher: an HTTP server on a free port that answers chat completions as a test tells it to.

It takes the place of an endpoint nobody wants to pay for; everything between it and the caller is real.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]
"""Status, and the JSON body of the response; None as the body closes the connection without a word."""


@dataclass
class StubServer:
    """What came in, in the order of arrival, and how to answer it."""

    respond: Callable[[dict[str, Any], int], Reply]
    """Takes a request's body and how many came before it."""
    base_url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The Authorization headers."""
    key: str | None = None
    """The key without which it does not even say that it lists no models."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def completion(content: str | None, input_tokens: int = 100, output_tokens: int = 10) -> Reply:
    """A response with one choice."""
    return 200, {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}},
        ],
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
    }


def error(status: int, message: str = "no") -> Reply:
    """A response that refuses the request."""
    return status, {"error": {"message": message, "type": "stub"}}


def question_of(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The name of the schema, the text of the prompt and the schema of a request."""
    asked = body["response_format"]["json_schema"]
    return asked["name"], body["messages"][0]["content"][1]["text"], asked["schema"]


@contextmanager
def serving(respond: Callable[[dict[str, Any], int], Reply]) -> Iterator[StubServer]:
    """Run the server for as long as the block runs."""
    stub = StubServer(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                count = len(stub.bodies)
                stub.bodies.append(body)
                stub.keys.append(self.headers["Authorization"])
            assert self.path == "/v1/chat/completions"
            status, content = stub.respond(body, count)
            if content is None:
                self.close_connection = True
                return
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")  # so that a repetition doesn't wait
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            status = 401 if stub.key is not None and self.headers["Authorization"] != f"Bearer {stub.key}" else 404
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
