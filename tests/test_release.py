"""What `jobs.release` says where the service does not do as it is asked."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dermo_ray.config.release import ReleaseConfig
from dermo_ray.errors import UserError
from jobs import release


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that takes its time over POST, and answers GET with a page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def do_POST(self) -> None:
            time.sleep(0.5)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_order_that_takes_long_is_not_taken_for_a_service_that_is_gone(stranger: str):
    with pytest.raises(UserError, match=r"did not answer within 0\.1 s .* goes on: look with action=list"):
        release.run(ReleaseConfig(action="rollback", url=stranger, timeout=0.1))


def test_something_else_that_listens_there_is_named(stranger: str):
    with pytest.raises(UserError, match="is no service of this kind: correct url="):
        release.run(ReleaseConfig(url=stranger))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "127.0.0.1:8000"])
def test_where_nothing_listens_the_address_is_named(url: str):
    with pytest.raises(UserError, match="no service answers at"):
        release.run(ReleaseConfig(url=url))
