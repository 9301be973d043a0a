"""The test server speaks OpenAI's protocol to OpenAI's own client, and its books are exact."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.servers.openai_server import KEY, OpenAIServer
from tests.servers.openai_server.errors import ApiError
from tests.servers.openai_server.limits import Limits

TEXT = (
    "The tower of Pisa leans by four degrees. Its bells are silent. Bread is made of flour, water and salt by bakers."
)
ASKED = [
    {"role": "system", "content": "You are a helpful assistant."},
    {
        "role": "user",
        "content": "Context information is below.\n---------------------\n"
        + TEXT
        + "\n---------------------\nGiven the context information and not prior knowledge, answer the query.\n"
        "Query: What is bread made of?\nAnswer: ",
    },
]


def client_of(server: OpenAIServer, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": server.url, "api_key": server.key, "max_retries": 0, **options})


def test_a_chat_answer_comes_from_the_context_and_the_usage_follows_the_cookbook(server: OpenAIServer) -> None:
    answer = client_of(server).chat.completions.create(model="gpt-4o-mini", messages=ASKED, temperature=0)  # type: ignore[arg-type]
    assert "flour, water and salt" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    import tiktoken  # the vocabulary is in memory by now

    counted = tiktoken.get_encoding("o200k_base")
    expected = 3 + sum(3 + len(counted.encode(one["role"])) + len(counted.encode(one["content"])) for one in ASKED)
    assert answer.usage is not None and answer.usage.prompt_tokens == expected
    row = server.requests[-1]
    assert (row.prompt_tokens, row.completion_tokens) == (expected, answer.usage.completion_tokens)


def test_at_temperature_0_the_same_request_has_the_same_answer_and_seeds_tell_sampled_ones_apart(
    server: OpenAIServer,
) -> None:
    client = client_of(server)

    def pairs(**options: Any) -> str:
        text = " ".join(f"Engine {chr(65 + at)} is used in the harbour of town {at}." for at in range(20))
        asked = {"role": "user", "content": f"---------------------\n{text}\n---------------------\nWrite 2 questions"}
        answer = client.chat.completions.create(model="gpt-4o", messages=[asked], **options)  # type: ignore[list-item]
        return answer.choices[0].message.content or ""

    assert pairs(temperature=0) == pairs(temperature=0)
    assert pairs(temperature=1, seed=1) == pairs(temperature=1, seed=1)
    assert len({pairs(temperature=1, seed=seed) for seed in range(5)}) > 1


def test_max_tokens_cuts_the_answer_and_says_so(server: OpenAIServer) -> None:
    answer = client_of(server).chat.completions.create(model="gpt-4o-mini", messages=ASKED, temperature=0, max_tokens=4)  # type: ignore[arg-type]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 4


def test_a_streamed_answer_is_the_same_text_and_is_billed_once(server: OpenAIServer) -> None:
    client = client_of(server)
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=ASKED, temperature=0)  # type: ignore[arg-type]
    chunks = list(
        client.chat.completions.create(  # type: ignore[call-overload]
            model="gpt-4o-mini", messages=ASKED, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens  # type: ignore[union-attr]
    assert server.billed["chat"] == 2


def test_completions_with_echo_give_the_log_probability_of_every_token_where_it_stands(server: OpenAIServer) -> None:
    prompt = "The sea is salt. The lake is sweet. The sea is"
    client = client_of(server, api_key=KEY)

    def told(text: str) -> Any:
        answer = client.completions.create(model="gpt-4o-mini", prompt=text, echo=True, logprobs=1, max_tokens=0)
        assert answer.choices[0].text == text
        return answer.choices[0].logprobs

    found = told(prompt + " salt.")
    assert "".join(found.tokens) == prompt + " salt."
    assert [prompt.find(found.tokens[0]), *found.text_offset[1:]] == found.text_offset
    assert all(
        (prompt + " salt.")[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True)
    )
    assert found.token_logprobs[0] is None and max(found.token_logprobs[1:]) < 0
    at = found.text_offset.index(len(prompt))
    assert found.token_logprobs[at] > told(prompt + " iron.").token_logprobs[at] + 1  # what was read is likelier


def test_embeddings_have_length_1_find_the_right_text_and_come_as_numbers_or_base64(server: OpenAIServer) -> None:
    client = client_of(server)
    texts = ["What is bread made of?", "Bread is made of flour and water.", "The tower leans by four degrees."]
    packed = [row.embedding for row in client.embeddings.create(model="text-embedding-3-small", input=texts).data]
    plain = client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="float").data

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert [len(row) for row in packed] == [256] * 3
    assert all(abs(dot(row, row) - 1) < 1e-5 for row in packed)
    assert dot(packed[0], packed[1]) > 0.4 > dot(packed[0], packed[2])
    assert (
        max(
            abs(x - y)
            for row, other in zip(packed, plain, strict=True)
            for x, y in zip(row, other.embedding, strict=True)
        )
        < 1e-6
    )


@pytest.mark.parametrize("given", ["", [], ["bread", ""]])
def test_an_empty_text_is_not_embedded_and_a_blank_is(server: OpenAIServer, given: str | list[str]) -> None:
    client = client_of(server)
    with pytest.raises(openai.BadRequestError, match=r"'\$\.input' is invalid"):
        client.embeddings.create(model="text-embedding-3-small", input=given)
    assert server.billed["embeddings"] == 0
    assert len(client.embeddings.create(model="text-embedding-3-small", input=[" "]).data) == 1


def test_models_are_listed_and_an_unknown_one_is_a_404_in_openais_words(server: OpenAIServer) -> None:
    client = client_of(server)
    assert "gpt-4o-mini" in {model.id for model in client.models.list()}
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(
        openai.NotFoundError, match="The model `gpt-9` does not exist or you do not have access"
    ) as raised:
        client.chat.completions.create(model="gpt-9", messages=ASKED)  # type: ignore[arg-type]
    assert raised.value.code == "model_not_found" and server.billed["chat"] == 0


@pytest.mark.parametrize("whole", [False, True])
def test_a_wrong_key_is_refused_with_a_part_of_it_or_all_of_it(server: OpenAIServer, whole: bool) -> None:
    server.settings.whole_key_in_401 = whole
    key = "sk-proj-wrong-0123456789abcdef"
    with pytest.raises(openai.AuthenticationError) as raised:
        client_of(server, api_key=key).models.list()
    server.settings.whole_key_in_401 = False
    assert "Incorrect API key provided: sk-proj-" in raised.value.message
    assert (key in raised.value.message) == whole and raised.value.code == "invalid_api_key"


def test_too_long_a_prompt_and_parameters_that_a_model_does_not_take_are_400(server: OpenAIServer) -> None:
    client = client_of(server)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens") as raised:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "word " * 9000}])
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="Use 'max_completion_tokens' instead"):
        client.chat.completions.create(model="gpt-5-mini", messages=ASKED, max_tokens=5)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="'temperature' does not support 0"):
        client.chat.completions.create(model="o4-mini", messages=ASKED, temperature=0)  # type: ignore[arg-type]
    assert server.billed["chat"] == 0


def test_the_rate_limit_holds_and_its_headers_tell_of_it(server: OpenAIServer) -> None:
    server.change({"requests_per_minute": 60, "burst_s": 3.0})
    try:
        client = client_of(server)
        answers = [client.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASKED) for _ in range(3)]  # type: ignore[arg-type]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "60"
        with pytest.raises(openai.RateLimitError, match="Rate limit reached for gpt-4o") as raised:
            client.chat.completions.create(model="gpt-4o", messages=ASKED)  # type: ignore[arg-type]
        assert raised.value.code == "rate_limit_exceeded"
        assert 0 < int(raised.value.response.headers["retry-after-ms"]) <= 1000
        assert raised.value.response.headers["retry-after"] == "1"
    finally:
        server.change({"requests_per_minute": 30_000, "burst_s": 1.0})
    assert server.billed["chat"] == 3


def test_tokens_are_limited_too_and_what_is_refused_costs_nothing() -> None:
    now_s = 0.0
    limits = Limits(600, 6_000, burst_s=6.0, clock=lambda: now_s)  # 60 requests and 600 tokens, 10 and 100 a second
    limits.take("m", 500)
    for _ in range(2):
        with pytest.raises(ApiError, match=r"tokens per min \(TPM\): Limit 6000, .* try again in 1s") as raised:
            limits.take("m", 200)
        assert raised.value.headers["retry-after-ms"] == "1000"
    assert limits.headers()["x-ratelimit-remaining-requests"] == "59"
    now_s = 1.0
    limits.take("m", 200)
    headers = limits.headers()
    assert (headers["x-ratelimit-remaining-tokens"], headers["x-ratelimit-reset-tokens"]) == ("0", "6s")


def test_the_books_are_exact_when_many_ask_at_once(server: OpenAIServer) -> None:
    server.misbehave({"kind": "server_error", "share": 0.1}, {"kind": "lost", "share": 0.1})
    server.settings.latency_s = 0.005

    def ask(number: int) -> str:
        connection = http.client.HTTPConnection(server.root.removeprefix("http://"))
        body = {"model": "gpt-4o", "temperature": 0, "messages": [{"role": "user", "content": f"{number % 100}?"}]}
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            response.read()
            return str(response.status)
        except OSError:
            return "lost"
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(ask, range(200)))
    server.settings.latency_s = 0.0
    assert 5 < seen.count("500") < 40 and 5 < seen.count("lost") < 40
    assert seen.count("200") + seen.count("500") + seen.count("lost") == 200
    assert server.billed["chat"] == seen.count("200") + seen.count("lost")
    assert server.books.tokens()["gpt-4o"]["calls"] == server.billed["chat"]
    assert 4 < server.books.most_at_once["chat"] <= 16
    billed = [row.digest for row in server.requests if row.billed]
    doubled = server.books.duplicates("chat")  # the same body, asked by two
    assert doubled and sum(doubled.values()) - len(doubled) == len(billed) - len(set(billed))


def test_as_a_process_it_says_where_it_is_and_its_state_outlives_it(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "tests.servers.openai_server",
        "--state-file",
        str(tmp_path / "state.json"),
        "--key",
        "k",
    ]
    faults = json.dumps([{"kind": "server_error", "on": "chat", "times": 1}])
    process = subprocess.Popen([*argv, "--faults", faults], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        client = openai.OpenAI(base_url=url, api_key="k", max_retries=0)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="gpt-4o", messages=ASKED)  # type: ignore[arg-type]
        client.chat.completions.create(model="gpt-4o", messages=ASKED)  # type: ignore[arg-type]
        root = url.removesuffix("/v1")
        rule = urllib.request.Request(f"{root}/_misbehave", b'[{"kind": "unavailable"}]')
        urllib.request.urlopen(rule).close()
        with pytest.raises(openai.InternalServerError):
            client.models.list()
        with urllib.request.urlopen(f"{root}/_state?rows=1") as answer:
            state = json.load(answer)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=20)
        process.stdout.close()  # type: ignore[union-attr]
    assert code == 0
    assert state["billed"] == {"chat": 1} and [row["status"] for row in state["rows"]] == [500, 200, 503]
    assert json.loads((tmp_path / "state.json").read_text())["billed"] == {"chat": 1}
