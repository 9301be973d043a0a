"""The listening socket, and how an answer leaves it: whole, slowly, in part, or not at all."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from tests.servers.openai_server.server import OpenAIServer
    from tests.servers.openai_server.state import Row

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close without the polite end
PIECES = 20  # of a slow answer


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(slots=True)
class Answer:
    """What goes back, and how."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    pieces: list[bytes] | None = None  # of an event stream; in place of the body
    delivery: str = "whole"  # or lost, reset_mid_body, cut, slow, hang
    seconds: float = 0.0  # of slow and hang
    row: Row | None = None


class HttpServer(ThreadingHTTPServer):
    """Knows its connections, so that they can be closed."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], api: OpenAIServer) -> None:
        self.api = api
        self.is_open = True
        self._connections: set[Any] = set()
        self._lock = threading.Lock()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close, without the FIN that `shutdown` would send ahead of a reset."""
        with self._lock:
            self._connections.discard(request)
        with contextlib.suppress(OSError):
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, ValueError)):
            super().handle_error(request, client_address)

    def close_all(self) -> None:
        """Close the port and every connection."""
        self.is_open = False
        self.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HttpServer

    def do_GET(self) -> None:
        self._exchange()

    def do_POST(self) -> None:
        self._exchange()

    def do_DELETE(self) -> None:
        self._exchange()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _exchange(self) -> None:
        from tests.servers.openai_server.routes import respond

        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(parts.path), dict(parse_qsl(parts.query)), headers, body)
        answer = respond(self.server.api, request)
        try:
            self._deliver(answer)
        except OSError:
            if answer.row is not None:
                answer.row.delivered = False
            raise
        finally:
            if answer.row is not None:
                self.server.api.books.close(answer.row)

    def _deliver(self, answer: Answer) -> None:
        if answer.delivery == "hang":
            self._wait_for_the_client(answer.seconds)
        if answer.delivery in ("lost", "hang"):
            self._reset()
            return
        head, body = self._head(answer), answer.body
        if answer.pieces is not None:
            pieces = [head, *(b"%x\r\n%b\r\n" % (len(one), one) for one in answer.pieces), b"0\r\n\r\n"]
        elif answer.delivery == "slow":
            size = max(1, len(body) // PIECES)
            pieces = [head, *(body[at : at + size] for at in range(0, len(body), size))]
        else:
            pieces = [head + body]
        if answer.delivery in ("reset_mid_body", "cut"):
            data = b"".join(pieces)
            pieces = [data[: len(head) + (len(data) - len(head)) // 2]]
        if answer.row is not None:
            # before the last byte leaves, or a client could look at the books too early
            answer.row.delivered = answer.delivery in ("whole", "slow")
        for piece in pieces:
            self.wfile.write(piece)
            if answer.delivery == "slow":
                time.sleep(answer.seconds / len(pieces))
        if answer.delivery == "reset_mid_body":
            self._reset()
        elif answer.delivery == "cut":
            self.close_connection = True

    def _head(self, answer: Answer) -> bytes:
        lines = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('-',))[0]}"]
        lines += [f"content-type: {answer.content_type}", *(f"{name}: {v}" for name, v in answer.headers.items())]
        is_stream = answer.pieces is not None
        lines.append("transfer-encoding: chunked" if is_stream else f"content-length: {len(answer.body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _wait_for_the_client(self, seconds: float) -> None:
        """Until the client gives up, the time is over, or the server stops."""
        deadline_s = time.monotonic() + seconds
        while self.server.is_open and time.monotonic() < deadline_s:
            if select.select([self.connection], [], [], 0.05)[0]:
                return
