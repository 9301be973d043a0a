"""A proxy in front of a real S3 server that spoils single exchanges: what no healthy server does on demand."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own, in the server's place."""

    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        if not self.code:
            return b""
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>-</Message></Error>".encode()


LOST = "lost"  # the server does what it is asked, and the connection breaks before its answer arrives
Fault = Callable[[Request, int], Answer | str | None]  # (request, how many came before it) -> what goes wrong


@dataclass
class FaultyProxy:
    """The proxy; requests that it saw are in `seen`."""

    target: str
    fault: Fault
    seen: list[Request] = field(default_factory=list)
    endpoint: str = ""

    @classmethod
    @contextmanager
    def before(  # noqa: C901 - one handler
        cls, target: str, fault: Fault, tls: tuple[Path, Path] | None = None
    ) -> Iterator[FaultyProxy]:
        """A proxy before the server at `target`; with TLS if a certificate and its key are given."""
        proxy = cls(target, fault)
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
                with lock:
                    n_before = len(proxy.seen)
                    proxy.seen.append(request)
                what = proxy.fault(request, n_before)
                if isinstance(what, Answer):
                    self.answer(what.status, {**what.headers, "Content-Type": "application/xml"}, what.body)
                    return
                status, headers, data = self.forward(body)
                if what == LOST:
                    self.close_connection = True
                    return
                self.answer(status, headers, data)

            def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(urlsplit(proxy.target).netloc, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
                connection.request(self.command, self.path, body, headers)  # the Host that was signed is kept
                reply = connection.getresponse()
                found = {k: v for k, v in reply.getheaders() if k.lower() not in HOP_BY_HOP}
                data = reply.read()
                connection.close()
                return reply.status, found, data

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if self.command == "HEAD" or name.lower() != "content-length":
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that hangs up is no news here

        server = Server(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        proxy.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield proxy
        finally:
            with suppress(OSError):
                server.shutdown()
                server.server_close()
