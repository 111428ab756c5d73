"""What stands before an Airflow in a company: a proxy that speaks TLS and serves it below a path."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit


def self_signed(folder: Path) -> Path:
    """Key and certificate of 127.0.0.1 in one file."""
    key, certificate = folder / "server.pem", folder / "server.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    key.write_text(key.read_text() + certificate.read_text())
    return key


class TlsProxy:
    """Forwards what is below the prefix, and knows no other page.

    :param upstream: the address of Airflow.
    :param certificate: key and certificate, PEM.
    """

    def __init__(self, upstream: str, prefix: str, certificate: Path) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.prefix = prefix
        self.certificate = certificate
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}{self.prefix}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        proxy = self

        class Handler(_Handler):
            through = proxy

        self._server = _Server(("127.0.0.1", self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_port
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet: clients that distrust us hang up."""


class _Handler(BaseHTTPRequestHandler):
    through: TlsProxy

    def _forward(self) -> None:
        if not self.path.startswith(self.through.prefix + "/"):
            return self._send(404, [("Content-Type", "text/html")], b"<h1>nothing here</h1>")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        upstream = http.client.HTTPConnection(self.through.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return self._send(answer.status, answer.getheaders(), content)

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _forward

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""
