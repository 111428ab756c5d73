"""A proxy before MLflow that kills its client at a chosen request: before it is sent on, or once answered."""

from __future__ import annotations

import http.client
import os
import signal
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
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
        self._fatal: tuple[str, str, Moment] | None = None
        self._victim: Future[int] = Future()
        self._lock = Lock()
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def expect(self, method: str, path: str, moment: Moment) -> Future[int]:
        """Kill the next client at the first request like this; its process id is to be told."""
        self._fatal, self._victim = (method, path, moment), Future()
        return self._victim

    def is_fatal(self, method: str, path: str, moment: Moment) -> bool:
        """Whether the client dies now; it dies once."""
        with self._lock:
            if self._fatal is None or (method, moment) != (self._fatal[0], self._fatal[2]):
                return False
            if self._fatal[1] not in path:
                return False
            self._fatal = None
        os.kill(self._victim.result(timeout=60), signal.SIGKILL)
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
