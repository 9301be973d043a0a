"""HTTP/1.1 in front of the registry: tokens, recorded requests, faults, streamed answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.servers.kubernetes import discovery, resources, status, streams
from tests.servers.kubernetes.connections import RESET, HttpServer, Recorded
from tests.servers.kubernetes.faults import Fault
from tests.servers.kubernetes.resources import PODS, REVIEWS, Request
from tests.servers.kubernetes.status import ApiError

Json = dict[str, Any]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: HttpServer

    def setup(self) -> None:
        super().setup()
        self.streaming: Request | None = None
        self._broken = False
        with self.server.lock:
            self.server.handlers[self] = threading.current_thread()

    def finish(self) -> None:
        with self.server.lock:
            self.server.handlers.pop(self, None)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            super().handle()

    def break_off(self) -> None:
        """Close the connection, from another thread."""
        self._broken = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are recorded."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        api = self.server.api
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        recorded: Recorded | None = None
        try:
            user = self._user()
            request = resources.parse(self.command, self.path)
            if request is None:
                self._discover()
                return
            recorded = Recorded(request.verb, request.resource.group, request.full_resource, request.namespace,
                                request.name, request.query, user)  # fmt: skip
            api.requests.append(recorded)
            if user != api.ADMIN and not api.authorizer.allows(request):
                raise status.not_allowed(request, user)
            after: list[Fault] = []
            for fault in api.faults.take(request):
                after += self._suffer(fault)
            self._dispatch(request, body, recorded, after)
        except ApiError as error:
            if recorded is not None:
                recorded.code = error.code
            self._send(error.code, error.status, error.retry_after_s)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # the server's own mistake: the test must hear of it
            api.errors.append(error)
            self._send(500, status.fault(500).status)

    def _user(self) -> str:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        user = self.server.api.users.get(token) if scheme == "Bearer" else None
        if user is None:
            raise status.unauthorized()
        return user

    def _discover(self) -> None:
        found = discovery.answer(urlsplit(self.path).path, self.server.api.version)
        if found is None:
            raise status.no_such_path()
        if isinstance(found, str):
            self._send_bytes(200, found.encode(), "text/plain")
        else:
            self._send(200, found)

    def _suffer(self, fault: Fault) -> list[Fault]:
        """Fail now, or return what is to happen after the request has taken effect."""
        if fault.delay_s:
            self.server.api.stopping.wait(fault.delay_s)
            return []
        if fault.takes_effect:
            return [fault]
        self._fail(fault)
        return []

    def _fail(self, fault: Fault) -> None:
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            raise ConnectionAbortedError
        raise status.fault(fault.status or 500, fault.retry_after_s)

    def _dispatch(self, request: Request, body: bytes, recorded: Recorded, after: list[Fault]) -> None:
        if request.verb == "watch":
            watch = streams.Watch(self.server.api.storage, request, self.server.api.bookmark_every_s)
            recorded.code = 200
            self._stream(request, watch.lines, "application/json")
            return
        if request.full_resource == "pods/log":
            self._log(request, recorded)
            return
        code, answer = self._do(request, _json(body))
        for fault in after:
            self._fail(fault)
        recorded.code = code
        self._send(code, answer)

    def _do(self, request: Request, body: Any) -> tuple[int, Json]:
        """The requests that are answered at once: (code, object)."""
        registry, storage = self.server.api.registry, self.server.api.storage
        resource, namespace, name = request.resource, request.namespace, request.name
        if resource is REVIEWS:
            return 201, self.server.api.review(body, self._user())
        if request.subresource == "eviction":
            return 201, registry.evict(namespace, name, body)
        if request.verb == "create":
            if resource.namespaced and not namespace:
                raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the resource")
            return 201, registry.create(resource, namespace, body, request.query)
        if request.verb == "get":
            return 200, storage.get(resource, namespace, name)
        if request.verb == "list":
            return 200, registry.list(resource, namespace, request.query)
        if request.verb == "update":
            return 200, registry.update(resource, namespace, name, body, request.subresource)
        if request.verb == "patch":
            kind = self.headers.get("Content-Type") or ""
            return 200, registry.patch(resource, namespace, name, body, kind, request.subresource)
        options = _delete_options(request.query, body)
        if request.verb == "delete":
            return 200, registry.delete(resource, namespace, name, options)
        return 200, registry.delete_collection(resource, namespace, request.query, options)

    def _log(self, request: Request, recorded: Recorded) -> None:
        api = self.server.api
        pod = api.storage.get(PODS, request.namespace, request.name)
        container = api.kubelet.containers.get(pod["metadata"]["uid"])
        lines = streams.log_lines(pod, container, request.query, self._is_wanted)
        recorded.code = 200
        self._stream(request, lambda _: lines, "text/plain")

    def _is_wanted(self) -> bool:
        """Whether the reader of a stream is still there."""
        if self._broken or not self.server.is_open:
            return False
        with contextlib.suppress(BlockingIOError):
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return True

    def _stream(
        self, request: Request, source: Callable[[Callable[[], bool]], Iterator[bytes]], content_type: str
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        self.streaming = request
        try:
            for data in source(self._is_wanted):
                if data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
            if self._broken:
                self.close_connection = True
                return
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        finally:
            self.streaming = None

    def _send(self, code: int, answer: Json, retry_after_s: int | None = None) -> None:
        self._send_bytes(code, json.dumps(answer).encode(), "application/json", retry_after_s)

    def _send_bytes(self, code: int, data: bytes, content_type: str, retry_after_s: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else {}
    except ValueError as error:
        raise status.bad_request(f"error decoding the body: {error}") from error


def _delete_options(query: dict[str, str], body: Any) -> Json:
    """From the body, or from the query's parameters."""
    options = dict(body) if isinstance(body, dict) else {}
    for key in ("propagationPolicy", "gracePeriodSeconds"):
        if key in query:
            options[key] = int(query[key]) if key == "gracePeriodSeconds" else query[key]
    return options
