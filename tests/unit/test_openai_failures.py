"""What a server's refusals are taken for: whether they may pass, in which words they are told, never with the key."""

from datetime import UTC, datetime

import pytest

from radit_job.errors import InputError, ServiceError
from radit_job.model_ref import ModelRef
from radit_job.models.openai_api.failures import (
    CallFailed,
    from_response,
    in_words,
    may_pass,
    request_in_words,
    retry_after_s,
)

KEY = "sk-canary-0123456789"
REF = ModelRef("openai", "gpt-x", base_url="http://models.example/v1", api_key_env="MY_KEY")
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def told(status: int, body: str) -> CallFailed:
    return from_response(status, {}, body, KEY)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_overload_and_rate_limits_may_pass(status: int) -> None:
    failure = told(status, '{"error": {"message": "later", "code": null}}')
    assert may_pass(failure)
    assert isinstance(in_words(failure, REF), ServiceError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_what_the_request_is_to_blame_for_does_not_pass(status: int) -> None:
    failure = told(status, '{"error": {"message": "no", "code": null}}')
    assert not may_pass(failure)
    assert isinstance(in_words(failure, REF), InputError)


def test_no_quota_is_no_rate_limit() -> None:
    failure = told(429, '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}')
    assert not may_pass(failure)
    words = in_words(failure, REF)
    assert isinstance(words, InputError)
    assert "no quota" in words.what and "You exceeded your current quota" in words.what


def test_a_certificate_that_is_not_trusted_does_not_pass_and_a_refused_connection_may() -> None:
    assert not may_pass(CallFailed(None, "unusable_address", "CERTIFICATE_VERIFY_FAILED"))
    assert may_pass(CallFailed(None, "ConnectError", "Connection refused"))


@pytest.mark.parametrize(
    ("status", "body", "words", "todo"),
    [
        (401, '{"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}', "Incorrect API key", "MY_KEY"),
        (404, '{"error": {"message": "no model gpt-x", "code": "model_not_found"}}', "no model gpt-x", "base_url"),
        (400, '{"error": {"message": "m", "code": "context_length_exceeded"}}', "too long: m", "context_tokens"),
        (400, '{"object": "error", "message": "maximum context length is 9"}', "too long: max", "retrieval.k"),
        (400, '{"error": {"message": "m", "code": "content_filter"}}', "filtered the request: m", "text"),
        (422, '{"detail": [{"loc": ["body", "n"], "msg": "Field required"}]}', "Field required", "Change"),
        (404, '{"detail": "Not Found"}', "Not Found", "base_url"),
        (400, '{"error": "model is required"}', "model is required", "Change"),
        (502, "<html><style>p {}</style><h1>Bad Gateway</h1></html>", "Bad Gateway", "kept"),
        (500, "", "HTTP 500", "kept"),
    ],
)
def test_the_servers_own_words_are_told_whatever_their_form(status: int, body: str, words: str, todo: str) -> None:
    error = in_words(told(status, body), REF)
    assert words in error.what
    assert "<" not in error.what
    assert todo in str(error.todo)
    assert "gpt-x" in str(error.where)


@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {KEY}.",
        f"header was 'Bearer {KEY}'",
        "header was Bearer sk-another-one",
        "x" * 495 + KEY,  # where the message is cut
    ],
)
def test_the_key_is_hidden_wherever_the_server_repeats_it(said: str) -> None:
    message = told(401, f'{{"error": {{"message": "{said}"}}}}').message
    assert "sk-" not in message
    assert "[key]" in message or message.endswith("…")


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_and_gets_none_says_where_to_name_it(status: int) -> None:
    error = in_words(told(status, ""), ModelRef("openai", "gpt-x", base_url="http://models.example/v1"))
    assert "wants a key" in error.what and "api_key_env" in str(error.todo)
    own = in_words(told(status, ""), ModelRef("openai", "gpt-x"))
    assert "OPENAI_API_KEY" in str(own.todo)


def test_a_placeholder_is_no_secret() -> None:
    assert from_response(400, {}, '{"error": "there is none"}', "none").message == "there is none"


def test_a_gateway_that_gave_up_may_have_been_billed_and_a_refusal_not() -> None:
    assert told(504, "").may_be_billed
    assert not told(500, "").may_be_billed
    assert not told(429, "").may_be_billed


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


def test_of_a_text_that_is_refused_the_passage_and_the_end_are_shown():
    prompt = (
        "Context is below.\n--------\nAnn lives in Rome. " + "More. " * 50 + "\n--------\nQuery: Who is Ann?\nAnswer: "
    )
    body = {"messages": [{"role": "user", "content": prompt}]}
    said = request_in_words(CallFailed(400, "content_filter", "filtered"), body)
    assert said.startswith(" (its passage begins: Ann lives in Rome. More.")
    assert said.endswith("Query: Who is Ann? Answer:)") and len(said) < 240
    said = request_in_words(CallFailed(400, "context_length_exceeded", "x"), {"input": ["a", "b c"]})
    assert said == " (the request ends: ...['a', 'b c'])"
    assert request_in_words(CallFailed(401, None, "key"), body) == ""
