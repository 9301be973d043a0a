"""The test server misbehaves as it is told, repeatably, and bills what it worked out and nothing else."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import openai
import pytest

from tests.servers.openai_server import KEY, Fault, OpenAIServer, openai_server

ASKED: Any = [{"role": "user", "content": "---------------------\nThe tower leans by four degrees, and its bells are "
               "silent.\n---------------------\nQuery: How far does the tower lean?\nAnswer: "}]  # fmt: skip


def ask(server: OpenAIServer, timeout: float = 20.0, **body: Any) -> Any:
    client = openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0, timeout=timeout)
    return client.chat.completions.create(model="gpt-4o", messages=ASKED, temperature=0, **body)


@pytest.mark.parametrize(
    ("rule", "status", "code", "words"),
    [
        ({"kind": "rate_limit", "retry_after_s": 0.25}, 429, "rate_limit_exceeded", "Rate limit reached for gpt-4o"),
        ({"kind": "insufficient_quota"}, 429, "insufficient_quota", "exceeded your current quota"),
        ({"kind": "server_error"}, 500, None, "The server had an error while processing your request"),
        ({"kind": "unavailable"}, 503, "service_unavailable", "currently overloaded"),
        ({"kind": "html"}, 502, None, "502 Bad Gateway"),
        ({"kind": "model_not_found"}, 404, "model_not_found", "The model `gpt-4o` does not exist"),
        ({"kind": "forbidden"}, 403, "model_not_found", "does not have access to model `gpt-4o`"),
        ({"kind": "content_filter"}, 400, "content_filter", "filtered due to the prompt"),
        ({"kind": "context_length"}, 400, "context_length_exceeded", "maximum context length is 8192 tokens"),
        ({"kind": "unsupported_parameter", "param": "temperature"}, 400, "unsupported_parameter", "'temperature'"),
    ],
)
def test_a_refusal_has_openais_status_code_and_words_and_bills_nothing(
    server: OpenAIServer, rule: dict[str, Any], status: int, code: str | None, words: str
) -> None:
    server.misbehave(on="chat", **rule)
    with pytest.raises(openai.APIStatusError) as raised:
        ask(server)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert words in raised.value.response.text
    assert server.billed["chat"] == 0 and server.requests[0].fault == rule["kind"]
    if rule["kind"] == "rate_limit":
        assert raised.value.response.headers["retry-after"] == "0.25"


@pytest.mark.parametrize("kind", ["lost", "reset_mid_body", "cut", "hang"])
def test_an_answer_that_was_worked_out_and_never_arrived_is_billed(server: OpenAIServer, kind: str) -> None:
    server.misbehave(kind=kind, on="chat")
    with pytest.raises(openai.APIConnectionError):
        ask(server, timeout=0.3)
    assert server.billed["chat"] == 1
    assert not server.requests[0].delivered


def test_a_connection_that_breaks_before_the_work_bills_nothing(server: OpenAIServer) -> None:
    server.misbehave(kind="reset")
    with pytest.raises(openai.APIConnectionError):
        ask(server)
    assert server.billed["chat"] == 0


def test_a_slow_answer_dribbles_and_is_whole_in_the_end(server: OpenAIServer) -> None:
    server.misbehave(kind="slow", seconds=0.4)
    started_s = time.monotonic()
    assert ask(server).choices[0].message.content
    assert time.monotonic() - started_s > 0.35


def raw(server: OpenAIServer) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"))
    body = json.dumps({"model": "gpt-4o", "messages": ASKED})
    connection.request(
        "POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    )
    response = connection.getresponse()
    try:
        return response.status, response.headers["content-type"], response.read()
    finally:
        connection.close()


def test_bodies_are_broken_under_a_status_of_200(server: OpenAIServer) -> None:
    server.misbehave(kind="truncated")
    status, _, body = raw(server)
    assert status == 200 and body.startswith(b"{")
    with pytest.raises(ValueError):
        json.loads(body)
    server.misbehave(kind="html_200")
    status, content_type, body = raw(server)
    assert (status, content_type) == (200, "text/html") and body.startswith(b"<html>")


def test_what_an_answer_says_can_be_wrong(server: OpenAIServer) -> None:
    right = ask(server)
    found = {}
    for mode in ("zero", "missing", "tenfold"):
        server.misbehave(kind="wrong_usage", mode=mode)
        usage = ask(server).usage
        found[mode] = usage and usage.prompt_tokens
    assert found == {"zero": 0, "missing": None, "tenfold": 10 * right.usage.prompt_tokens}
    assert {row.prompt_tokens for row in server.requests} == {right.usage.prompt_tokens}  # the books know better
    server.misbehave(kind="empty_choices")
    assert ask(server).choices == []
    server.misbehave(kind="null_content")
    assert ask(server).choices[0].message.content is None
    server.misbehave(kind="only_thoughts")
    thought = ask(server).choices[0]
    assert (thought.message.content, thought.finish_reason) == (None, "length")
    server.misbehave(kind="filtered")
    cut = ask(server).choices[0]
    assert cut.finish_reason == "content_filter"
    assert len(cut.message.content) < len(right.choices[0].message.content)


def test_rules_strike_by_share_number_text_and_operation_the_same_in_every_run() -> None:
    def run(seed: int) -> list[str | None]:
        with openai_server(seed=seed) as server:
            server.misbehave(
                Fault("rate_limit", on="chat", share=0.2),
                Fault("server_error", on="chat", share=0.2, after=50),
                Fault("lost", on="embeddings"),
            )
            for _ in range(100):
                raw(server)
            return [row.fault for row in server.requests]

    first = run(1)
    assert first == run(1) != run(2)
    assert 8 < first.count("rate_limit") < 35 and "server_error" not in first[:50] and "server_error" in first[50:]
    with openai_server() as server:
        server.misbehave({"kind": "server_error", "times": 1}, {"kind": "content_filter", "containing": "bells"})
        assert [raw(server)[0] for _ in range(3)] == [500, 400, 400]
        server.misbehave(kind="content_filter", containing="no such word")
        assert raw(server)[0] == 200


def test_it_does_not_accept_a_fault_that_it_does_not_know(server: OpenAIServer) -> None:
    with pytest.raises(ValueError, match="no such fault: earthquake"):
        server.misbehave(kind="earthquake")
