"""One HTTP exchange with the API server, tried again while the trouble may pass: the only place that retries."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from radit_job import observe
from radit_job.errors import RaditError, ServiceError
from radit_job.executors.kubernetes.answers import NoAnswer, Stopped, answer_of, error_of, is_passing, retry_after_s

PATIENCE_S = 300.0  # an API server that is upgraded is away for a minute or two
FIRST_DELAY_S, MAX_DELAY_S = 0.2, 5.0  # between tries, before jitter
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0


class Stopper:
    """Ends, from another thread, the streams and the waiting that it was given to."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._streams: set[urllib3.BaseHTTPResponse] = set()

    @property
    def is_set(self) -> bool:
        """Whether it is time to let go."""
        return self._event.is_set()

    def stop(self) -> None:
        """Let go of everything; nothing can be waited for with this stopper any more."""
        self._event.set()
        with self._lock:
            for stream in self._streams:
                _cut(stream)

    def wait(self, seconds: float) -> None:
        """Sleep; Stopped when told to let go."""
        if self._event.wait(seconds):
            raise Stopped

    def hold(self, stream: urllib3.BaseHTTPResponse) -> None:
        """From now on `stop` ends this stream, too."""
        with self._lock:
            self._streams.add(stream)
        if self.is_set:
            raise Stopped

    def release(self, stream: urllib3.BaseHTTPResponse) -> None:
        """The stream has ended by itself."""
        with self._lock:
            self._streams.discard(stream)


@dataclass(frozen=True, slots=True)
class Session:
    """A way to the API server, as the kubeconfig or the pod's service account describes it."""

    host: str
    pool: urllib3.PoolManager
    auth_headers: Callable[[], dict[str, str]]  # asked at each request: tokens are renewed


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and how an error shall name it."""

    method: str
    path: str
    verb: str  # as RBAC has it: get, list, watch, create, delete
    what: str  # the resource, with the object's name if there is one
    query: tuple[tuple[str, str], ...] = ()
    body: dict[str, Any] | None = None
    read_timeout_s: float | None = READ_TIMEOUT_S
    patience_s: float | None = None  # None: the transport's


class Transport:
    """Sends requests. What may pass is tried again for `patience_s`; a warning tells of it once, and of its end."""

    def __init__(self, load: Callable[[], Session], namespace: str, patience_s: float = PATIENCE_S) -> None:
        self._load = load
        self._session = load()
        self._namespace = namespace
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._away_since_s: float | None = None

    @property
    def host(self) -> str:
        """The API server's address."""
        return self._session.host

    def json(self, request: Request, stopper: Stopper | None = None) -> dict[str, Any]:
        """The answer as a plain value."""
        plain: dict[str, Any] = json.loads(self._send(request, stopper, stream=False).data, object_hook=_slim)
        return plain

    def lines(self, request: Request, stopper: Stopper | None = None) -> Iterator[bytes]:
        """The answer's lines as they come. It ends when the server ends it, and when the connection drops."""
        stream = self._send(request, stopper, stream=True)
        rest = b""
        try:
            if stopper:
                stopper.hold(stream)
            for chunk in stream.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
            if rest:
                yield rest
        except (HTTPError, OSError, ValueError):  # ValueError: read after the stopper closed it
            pass
        finally:
            if stopper:
                stopper.release(stream)
            stream.close()
        if stopper and stopper.is_set:
            raise Stopped

    def _send(self, request: Request, stopper: Stopper | None, *, stream: bool) -> urllib3.BaseHTTPResponse:
        began_s = time.monotonic()
        patience_s = self._patience_s if request.patience_s is None else request.patience_s
        renewed = False
        for attempt in itertools.count():
            asked_s = 0.0
            try:
                response = self._exchange(request, stream)
            except HTTPError as error:
                if isinstance(error, SSLError) and "CERTIFICATE" in str(error).upper():
                    raise self._distrust(error) from error
                trouble = f"cannot be reached: {_words(error)}"
            else:
                if response.status < 400:
                    self._answers()
                    return response
                answer = answer_of(response.data)
                if not is_passing(response.status, answer):
                    self._answers()
                    if response.status == 401 and not renewed:
                        renewed, self._session = True, self._load()
                        continue
                    raise self._refusal(request, response.status, answer)
                asked_s = retry_after_s(response.headers.get("Retry-After"), answer)
                trouble = f"answers {response.status}: {answer.get('message') or 'without a word'}"
            delay_s = max(asked_s, min(MAX_DELAY_S, FIRST_DELAY_S * 2**attempt)) * random.uniform(1.0, 1.3)
            if time.monotonic() + delay_s - began_s > patience_s:
                todo = "Does `kubectl cluster-info` answer? Jobs go on without it; the same command finds them again."
                raise NoAnswer(f"the Kubernetes API {trouble}", where=self.host, todo=todo)
            self._is_away(trouble, patience_s)
            (stopper.wait if stopper else time.sleep)(delay_s)
        raise AssertionError("unreachable")

    def _exchange(self, request: Request, stream: bool) -> urllib3.BaseHTTPResponse:
        session = self._session
        with self._lock:  # renewing a token is not made for two threads at once
            headers = {"Accept": "application/json", "User-Agent": "radit-job", **session.auth_headers()}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        response = session.pool.request(
            request.method,
            session.host + request.path + ("?" + urlencode(request.query) if request.query else ""),
            body=None if request.body is None else json.dumps(request.body).encode(),
            headers=headers,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=request.read_timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        if not stream or response.status >= 400:
            _ = response.data  # read here, so that a drop in the middle is tried again
        return response

    def _refusal(self, request: Request, code: int, answer: dict[str, Any]) -> RaditError:
        return error_of(code, answer, verb=request.verb, what=request.what, namespace=self._namespace, where=self.host)

    def _distrust(self, error: Exception) -> ServiceError:
        todo = "Does the kubeconfig name this cluster's certificate authority? `kubectl cluster-info` must work."
        return ServiceError(f"the API server's certificate is not trusted: {_words(error)}", where=self.host, todo=todo)

    def _is_away(self, trouble: str, patience_s: float) -> None:
        with self._lock:
            if self._away_since_s is not None:
                return
            self._away_since_s = time.monotonic()
        observe.warn(f"the Kubernetes API {trouble}; trying again for {patience_s:.0f} s", host=self.host)

    def _answers(self) -> None:
        with self._lock:
            if self._away_since_s is None:
                return
            seconds = time.monotonic() - self._away_since_s
            self._away_since_s = None
        observe.warn(f"the Kubernetes API answers again, after {seconds:.1f} s", host=self.host)


def _slim(plain: dict[str, Any]) -> dict[str, Any]:
    """Called at each object as it is parsed: the largest part of most objects is never kept."""
    plain.pop("managedFields", None)
    return plain


def _words(error: Exception) -> str:
    """What happened, without urllib3's object addresses."""
    text = str(error.__context__ or error) if type(error).__name__.endswith("ConnectionError") else str(error)
    return text.split(">: ")[-1].strip()


def _cut(stream: urllib3.BaseHTTPResponse) -> None:
    """Wake a thread that reads this stream: urllib3 2.3 and later can; before, it wakes at the next event."""
    with suppress(AttributeError, ValueError, OSError, RuntimeError):
        stream.shutdown()
