"""A proxy before MLflow that answers one request with HTTP 500: without sending it on, or after it was done."""

from __future__ import annotations

import http.client
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Literal
from urllib.parse import urlsplit

How = Literal["refused", "lost", "slow"]


class FailingProxy(ThreadingHTTPServer):
    """Forwards everything, but for the n-th request.

    :param upstream: the real server's address.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[str] = []
        self.at: int | str | None = None
        self.how: How = "refused"
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, at: int | None, how: How = "refused") -> None:
        """Fail the n-th request from now on."""
        self.requests, self.at, self.how = [], at, how

    def fail_at(self, request: str, how: How) -> None:
        """Fail the next request of this name, once."""
        self.requests, self.at, self.how = [], request, how

    def fails(self, number: int, request: str) -> bool:
        """Whether this request is the one."""
        if self.at not in (number, request):
            return False
        self.at = None
        return True


class _Handler(BaseHTTPRequestHandler):
    server: FailingProxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        request = f"{self.command} {self.path.partition('?')[0].rpartition('mlflow/')[2]}"
        self.server.requests.append(request)
        fails = self.server.fails(len(self.server.requests) - 1, request)
        if fails and self.server.how == "refused":
            self._answer(500, b"broken")
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fails and self.server.how == "slow":
            # Longer than the client waits.
            time.sleep(3)
        if fails:
            self._answer(500, b"broken")
        else:
            self._answer(answer.status, content)

    def _answer(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            # The client has gone.
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""
