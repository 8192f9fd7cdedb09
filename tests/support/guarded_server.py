"""A door with a user and a password before a real MLflow server: what is not let in gets a 401."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.mlflow_server import Server

USER, PASSWORD = "kim", "s3cr3t:p@ss"
QUOTED = "s3cr3t%3Ap%40ss"
"""The password as a URI has it."""


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    port = 0
    """Of the server behind."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self._answer(401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}', "application/json")
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization")}
        behind.request(self.command, self.path, body, kept)
        answer = behind.getresponse()
        self._answer(answer.status, answer.read(), answer.headers.get("Content-Type", "text/plain"))
        behind.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Not to the tests' own output."""


@pytest.fixture
def guarded(server: Server) -> Iterator[str]:
    """`127.0.0.1:PORT` of a guarded server."""
    door = ThreadingHTTPServer(("127.0.0.1", 0), type("Door", (_Door,), {"port": server.port}))
    thread = threading.Thread(target=door.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{door.server_port}"
    door.shutdown()
    door.server_close()
    thread.join()
