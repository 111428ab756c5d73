"""A proxy before MLflow that kills its client at a chosen request: before it is sent on, or once answered."""

from __future__ import annotations

import http.client
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Literal
from urllib.parse import urlsplit

Moment = Literal["before", "after"]


class FatalProxy(ThreadingHTTPServer):
    """Forwards everything, but for one request.

    :param upstream: the real server's address.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.fatal: tuple[str, str, Moment] | None = None
        self.victim: int | None = None
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def is_fatal(self, method: str, path: str, moment: Moment) -> bool:
        """Whether the client dies now; it dies once."""
        if self.fatal is None or self.victim is None or self.fatal[2] != moment:
            return False
        if method != self.fatal[0] or self.fatal[1] not in path:
            return False
        os.kill(self.victim, signal.SIGKILL)
        self.fatal = None
        return True


class _Handler(BaseHTTPRequestHandler):
    server: FatalProxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if self.server.is_fatal(self.command, self.path, "before"):
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if self.server.is_fatal(self.command, self.path, "after"):
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""
