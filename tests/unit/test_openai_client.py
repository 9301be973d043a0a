"""One request to a server: it ends in its time however the answer comes, and shows no key."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from radit_job.errors import ConfigError
from radit_job.model_ref import OPENAI_URL, ModelRef
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import CallFailed

KEY = "sk-canary-0123456789"
HEAD = "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"


def head_of(connection: socket.socket) -> str:
    """The head of a request that was read to its end: what is left unread would break the connection."""
    with connection.makefile("rb") as request:
        lines = [line.decode() for line in iter(request.readline, b"\r\n")]
        lengths = [line.split()[1] for line in lines if line.lower().startswith("content-length")]
        request.read(int(lengths[0]) if lengths else 0)
    return "".join(lines)


@contextmanager
def raw_server(serve: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """A server that is handed the head of each connection's first request; the address of its API."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # the client may have gone
                serve(connection, head_of(connection))

    threading.Thread(target=work, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def in_drops(text: str) -> Callable[[socket.socket, str], None]:
    def serve(connection: socket.socket, head: str) -> None:
        for letter in text:
            connection.sendall(letter.encode())
            time.sleep(0.05)

    return serve


ERROR = json.dumps({"error": {"message": "no " * 40}})
ANSWER = json.dumps({"choices": ["x" * 120]})


@pytest.mark.parametrize(
    ("at_once", "drops"),
    [
        ("", HEAD.format(status=200, length=9) + "x" * 99),
        (HEAD.format(status=400, length=len(ERROR)), ERROR),
        (HEAD.format(status=200, length=len(ANSWER)), ANSWER),
    ],
    ids=["headers", "error body", "answer"],
)
def test_an_answer_in_drops_ends_with_the_time_that_a_call_may_take(at_once: str, drops: str) -> None:
    def serve(connection: socket.socket, head: str) -> None:
        connection.sendall(at_once.encode())
        in_drops(drops)(connection, head)

    with raw_server(serve) as url:
        endpoint = Endpoint.open(ModelRef("openai", "m", base_url=url))
        began_s = time.monotonic()
        with pytest.raises(CallFailed, match="timeout_s") as told:
            endpoint.chat({"model": "m", "messages": []}, 0.5)
        assert time.monotonic() - began_s < 2  # whole, it would take 5 s and more
        assert told.value.may_be_billed


def test_a_request_after_one_that_was_cut_off_has_its_own_time() -> None:
    def serve(connection: socket.socket, head: str) -> None:
        if "/models" in head:
            data = json.dumps({"data": [{"id": "m"}]})
            connection.sendall((HEAD.format(status=200, length=len(data)) + data).encode())
        else:
            in_drops("x" * 30)(connection, head)

    with raw_server(serve) as url:
        endpoint = Endpoint.open(ModelRef("openai", "m", base_url=url))
        with pytest.raises(CallFailed):
            endpoint.chat({"model": "m", "messages": []}, 0.2)
        assert endpoint.models() == ["m"]


def test_the_services_words_on_a_job_show_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    said = f"Your key {KEY} is used by 'Bearer sk-canary-another'."
    job = {"id": "ftjob-1", "status": "failed", "error": {"code": "x", "message": said, "param": None}}
    events = {"data": [{"id": "e1", "message": said, "data": {"deep": [said]}}], "has_more": False}

    def serve(connection: socket.socket, head: str) -> None:
        plain = events if "/events" in head else {"data": [job]} if "/jobs?" in head else job
        data = json.dumps(plain)
        connection.sendall((HEAD.format(status=200, length=len(data)) + data).encode())

    with raw_server(serve) as url:
        endpoint = Endpoint.open(ModelRef("openai", "m", base_url=url, api_key_env="MY_KEY"))
        found: list[Any] = [
            endpoint.job("ftjob-1"),
            endpoint.create_job({"model": "m"}),
            endpoint.cancel_job("ftjob-1"),
            endpoint.job_events("ftjob-1", None),
            list(endpoint.jobs()),
        ]
    assert all("Your key [key]" in json.dumps(item) for item in found)
    assert "canary" not in json.dumps(found)


def test_a_key_goes_to_openai_alone_unless_its_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MY_KEY", "sk-mine-0123")
    got: list[str] = []

    def serve(connection: socket.socket, head: str) -> None:
        got.extend(line.split()[-1] for line in head.splitlines() if line.lower().startswith("authorization"))
        data = json.dumps({"data": []})
        connection.sendall((HEAD.format(status=200, length=len(data)) + data).encode())

    with raw_server(serve) as url:
        for variable in (None, "MY_KEY"):
            Endpoint.open(ModelRef("openai", "m", base_url=url, api_key_env=variable)).models()
    assert got == ["none", "sk-mine-0123"]
    assert Endpoint.open(ModelRef("openai", "m"))._client.api_key == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError) as told:
        Endpoint.open(ModelRef("openai", "m", base_url=OPENAI_URL))
    assert told.value.where == "OPENAI_API_KEY"
