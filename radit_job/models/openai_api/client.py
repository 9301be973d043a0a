"""The official client, and nothing else that knows it: plain dictionaries in and out, every failure a `CallFailed`.

The client's own retries are off: `calls.py` decides what is tried again, and when.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radit_job.errors import ConfigError, RaditError
from radit_job.model_ref import OPENAI_URL, ModelRef, key_variable
from radit_job.models.openai_api.failures import (
    BROKEN,
    UNREACHABLE_FOR_EVER,
    CallFailed,
    from_response,
    hidden_within,
    without_key,
)

if TYPE_CHECKING:
    import httpx
    from openai import OpenAI

NO_KEY = "none"  # what servers without authentication are sent
PAGE = 100  # items of a list that are asked for at once
MAX_CONNECT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: its JSON, and its headers in lower case."""

    body: dict[str, Any]
    headers: Mapping[str, str]


class Endpoint:
    """One server and one key; every method may be called from many threads, and raises CallFailed."""

    def __init__(self, client: OpenAI, key: str, timeout_s: float) -> None:
        self._client = client
        self._key = key
        self._timeout_s = timeout_s

    @classmethod
    def open(cls, ref: ModelRef) -> Endpoint:
        """Nothing is sent yet; ConfigError for a key that is missing (OpenAI's own address) or cannot be one."""
        import openai  # here, for it takes a second

        from radit_job.models.openai_api.deadline import obey_deadlines

        for name in ("openai", "httpx", "httpcore"):  # they would log addresses and, for debugging, whole requests
            logging.getLogger(name).setLevel(logging.WARNING)
        key = _key(ref)
        http_client = openai.DefaultHttpxClient()
        obey_deadlines(http_client)
        client = openai.OpenAI(
            api_key=key, base_url=ref.base_url, max_retries=0, timeout=ref.timeout_s, http_client=http_client
        )
        return cls(client, key, ref.timeout_s)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def chat(self, body: dict[str, Any], timeout_s: float) -> Reply:
        """POST /chat/completions."""
        return self._request("POST", "/chat/completions", body=body, timeout_s=timeout_s)

    def stream_chat(
        self, body: dict[str, Any], timeout_s: float, take: Callable[[dict[str, Any]], None]
    ) -> Mapping[str, str]:
        """POST /chat/completions; `take` gets each event of the stream as it comes. The answer's headers.

        `take` gets a whole answer where the server does not stream.
        """
        with self._response("POST", "/chat/completions", body=body, timeout_s=timeout_s) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                take(_parsed(response.read()))
            else:
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if line.startswith("data:") and data not in ("", "[DONE]"):
                        take(_parsed(data.encode()))
        return response.headers

    def completions(self, body: dict[str, Any], timeout_s: float) -> Reply:
        """POST /completions."""
        return self._request("POST", "/completions", body=body, timeout_s=timeout_s)

    def embeddings(self, body: dict[str, Any], timeout_s: float) -> Reply:
        """POST /embeddings."""
        return self._request("POST", "/embeddings", body=body, timeout_s=timeout_s)

    def models(self) -> list[str]:
        """The names of the models that this key may use."""
        return [str(item["id"]) for item in _items(self._request("GET", "/models").body)]

    def upload(self, name: str, data: bytes) -> str:
        """Upload a file for fine-tuning; returns its id."""
        with _told_as_call_failed(self._key):
            raw = self._client.files.with_raw_response.create(file=(name, data), purpose="fine-tune")
            return str(_parsed(raw.http_response.content)["id"])

    def files(self) -> Iterator[dict[str, Any]]:
        """The files uploaded for fine-tuning, newest first: id, filename, bytes, status."""
        return self._listed("/files", {"purpose": "fine-tune", "order": "desc"})

    def create_job(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create a fine-tuning job. A failure that may be billed may have made the job all the same."""
        return self._request("POST", "/fine_tuning/jobs", body=body, is_told=True).body

    def job(self, job_id: str) -> dict[str, Any]:
        """A fine-tuning job as it stands."""
        return self._request("GET", f"/fine_tuning/jobs/{job_id}", is_told=True).body

    def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a fine-tuning job; returns it as it then stands."""
        return self._request("POST", f"/fine_tuning/jobs/{job_id}/cancel", body={}, is_told=True).body

    def jobs(self) -> Iterator[dict[str, Any]]:
        """All fine-tuning jobs of this account, newest first."""
        return self._listed("/fine_tuning/jobs", {})

    def job_events(self, job_id: str, after: str | None) -> list[dict[str, Any]]:
        """A job's events, oldest first: all, or those that came after the event with the id `after`."""
        found: list[dict[str, Any]] = []
        for event in self._listed(f"/fine_tuning/jobs/{job_id}/events", {}):  # newest first
            if event.get("id") == after:
                break
            found.append(event)
        return found[::-1]

    def _listed(self, path: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        after: dict[str, Any] = {}
        while True:
            page = self._request("GET", path, params={"limit": PAGE, **params, **after}, is_told=True).body
            items = _items(page)
            yield from items
            if not items or not page.get("has_more") or after == {"after": items[-1].get("id")}:
                return
            after = {"after": items[-1].get("id")}

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = None,
        is_told: bool = False,
    ) -> Reply:
        """One request and its whole answer.

        `is_told`: the answer holds the service's own words (why a job failed), which are shown and kept.
        """
        with self._response(method, path, body=body, params=params, timeout_s=timeout_s) as response:
            body = _parsed(response.read())
        return Reply(hidden_within(body, self._key) if is_told else body, response.headers)

    @contextmanager
    def _response(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer that is still to be read; one that comes in drops is cut off when the time is up."""
        import httpx

        from radit_job.models.openai_api.deadline import ends_within

        timeout_s = timeout_s or self._timeout_s
        options: Any = {"timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, MAX_CONNECT_S))}
        client: Any = self._client  # its typed overloads know no plain response that is still to be read
        with _told_as_call_failed(self._key), ends_within(timeout_s):
            if method == "GET":
                options["params"] = params or {}
                response = client.get(path, cast_to=httpx.Response, options=options, stream=True)
            else:
                response = client.post(path, body=body, cast_to=httpx.Response, options=options, stream=True)
            with closing(response):
                yield response


@contextmanager
def _told_as_call_failed(key: str) -> Iterator[None]:
    """Turns what the client and its HTTP library raise into CallFailed, with no trace of the key behind it."""
    import httpx
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise from_response(error.status_code, error.response.headers, _text(error.response), key) from None
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, RaditError):  # SIGTERM, raised by its handler: the client takes it for a failure
            raise error.__cause__ from None
        raise _unanswered(error.__cause__ or error, key) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unanswered(error, key) from None


def _unanswered(error: BaseException, key: str) -> CallFailed:
    """No whole answer came; once the request was out, the server may have done its work."""
    import httpx

    words = without_key(str(error), key) or type(error).__name__
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)) or "CERTIFICATE_VERIFY_FAILED" in words:
        return CallFailed(None, UNREACHABLE_FOR_EVER, words)
    never_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, never_sent):
        words = "no answer within the time that a call may take (timeout_s)"
    return CallFailed(None, type(error).__name__, words, None, not isinstance(error, never_sent))


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(content)
    except ValueError:
        plain = None
    if not isinstance(plain, dict):
        raise CallFailed(200, BROKEN, "the answer is no whole JSON object", None, True)
    return plain


def _items(page: dict[str, Any]) -> list[dict[str, Any]]:
    items = page.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise CallFailed(200, BROKEN, "the answer is no list")
    return items


def _text(response: Any) -> str:
    import httpx

    try:
        return str(response.text)
    except (httpx.HTTPError, httpx.StreamError, UnicodeError):
        return ""


def _key(ref: ModelRef) -> str:
    variable = key_variable(ref)
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable, "").strip()  # a file made with echo ends in a line break
    if not key and ref.base_url == OPENAI_URL:
        raise ConfigError(
            f"{ref.base_url} needs a key, and this variable is not set",
            where=variable,
            todo=f"export {variable}=..., or name another variable in api_key_env.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("this variable's value cannot be a key", where=variable, todo="Set it again.")
    return key or NO_KEY
