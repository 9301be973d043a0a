"""The listening socket and its connections, which can be broken at will."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.servers.kubernetes.server import KubernetesServer

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close without the polite end


@dataclass(slots=True)
class Recorded:
    """A request that came in, and how it was answered."""

    verb: str
    group: str
    resource: str  # with its subresource: pods/log
    namespace: str
    name: str
    query: dict[str, str]
    user: str
    code: int | None = None  # None: not answered


class HttpServer(ThreadingHTTPServer):
    """Knows its connections, so that they can be closed."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, api: KubernetesServer, handler: type[BaseHTTPRequestHandler]) -> None:
        self.api = api
        self.handlers: dict[Any, threading.Thread] = {}
        self.lock = threading.Lock()
        self.is_open = True
        super().__init__(("127.0.0.1", port), handler)

    def close(self) -> None:
        """Stop listening, break every connection, and wait for the threads."""
        self.is_open = False
        self.shutdown()
        self.server_close()
        with self.lock:
            open_now = dict(self.handlers)
        for handler in open_now:
            handler.break_off()
        with self.api.storage.changed:
            self.api.storage.changed.notify_all()
        for thread in open_now.values():
            thread.join(5)

    def shutdown_request(self, request: Any) -> None:
        """Without the polite end for a connection that is to be reset."""
        with contextlib.suppress(OSError):
            if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == RESET:
                request.close()
                return
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server."""
