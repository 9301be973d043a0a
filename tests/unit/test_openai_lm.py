"""A served language model: what is sent, what is made of the answers, and what the books say."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from radit_job import observe
from radit_job.errors import ConfigError, InputError
from radit_job.model_ref import OPENAI_URL, ModelRef
from radit_job.models.base import AnswerScore
from radit_job.models.chat import ChatFormat
from radit_job.models.cost import Price, Usage
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_generator
from radit_job.models.openai_api.lm import OpenAILM
from radit_job.records import Message

Json = dict[str, Any]


class Script:
    """A server that answers as the test says, for replies that no real server would send twice; keeps what it got."""

    def __init__(self) -> None:
        self.got: list[Json] = []
        self.reply: Any = lambda path, body: (200, chat("fine"))
        self.lock = threading.Lock()

    def url(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/v1"


def chat(text: Any, *, reason: str | None = "stop", usage: Any = None, **message: Any) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    told = {"prompt_tokens": 20, "completion_tokens": 3} if usage is None else usage
    return {"choices": [choice], **({"usage": told} if told != "missing" else {})}


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with script.lock:
                script.got.append(body)
                status, answer = script.reply(self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    script.base_url = f"http://127.0.0.1:{server.server_port}/v1"  # type: ignore[attr-defined]
    yield script
    server.shutdown()
    server.server_close()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    seen: list[str] = []
    observe.send_events_to(lambda event: seen.append(event["message"]) if event.get("level") == "warning" else None)
    yield seen
    observe.send_events_to(lambda event: None)


def lm(script: Any, ledger: Ledger | None = None, name: str = "gpt-4o-mini", **settings: Any) -> OpenAILM:
    return OpenAILM.open(ModelRef("openai", name, base_url=script.base_url, **settings), ledger or Ledger())


HELLO = [Message("system", "Be brief."), Message("user", "Hello there, how are you?")]


def test_what_is_sent_is_what_was_asked(script: Any) -> None:
    model = lm(script)
    model.complete([HELLO], max_new_tokens=9)
    assert script.got == [
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": m.role, "content": m.content} for m in HELLO],
            "max_tokens": 9,
            "temperature": 0.0,
        }
    ]


def test_each_row_has_a_seed_of_its_own_and_a_repeat_is_asked_again(script: Any) -> None:
    model = lm(script)
    model.complete([HELLO, HELLO], max_new_tokens=9, temperature=0.7, seed=5)
    assert sorted(body["seed"] for body in script.got) == [5, 6]
    model.complete([HELLO, HELLO], max_new_tokens=9, temperature=0.7, seed=5)
    assert len(script.got) == 2
    model.complete([HELLO], max_new_tokens=9, temperature=0.7, seed=5, repeat=1)
    assert len(script.got) == 3
    assert script.got[2] in script.got[:2]


@pytest.mark.parametrize(
    ("reply", "text", "reason"),
    [
        (chat(" fine \n"), "fine", "stop"),
        (chat("fi", reason="length"), "fi", "length"),
        (chat("fi", reason="content_filter"), "fi", "content_filter"),
        (chat(None, reason="content_filter"), "", "content_filter"),
        (chat(None), "", "stop"),
        (chat("", reason=None), "", "stop"),
        (chat(None, refusal="I cannot."), "I cannot.", "stop"),
        (chat([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]), "in parts", "stop"),
        (chat("fine", reason="eos"), "fine", "stop"),
        (chat(None, reason="tool_calls", tool_calls=[{"id": "1"}]), "", "stop"),
    ],
)
def test_what_is_made_of_an_answer(reply: Json, text: str, reason: str, script: Any) -> None:
    script.reply = lambda path, body: (200, reply)
    (answer,) = lm(script).complete([HELLO], max_new_tokens=9)
    assert (answer.text, answer.finish_reason) == (text, reason)
    assert (answer.n_prompt_tokens, answer.n_completion_tokens) == (20, 3)


@pytest.mark.parametrize(
    "broken", [{}, {"choices": []}, {"choices": [{}]}, {"choices": None}, chat(None, reason=None), {"choices": ["a"]}]
)
def test_an_answer_that_is_none_is_asked_for_again(broken: Json, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radit_job.models.openai_api.patience.FIRST_BACKOFF_S", 0.01)
    script.reply = lambda path, body: (200, broken if len(script.got) < 3 else chat("fine"))
    (answer,) = lm(script).complete([HELLO], max_new_tokens=9)
    assert answer.text == "fine"
    assert len(script.got) == 3


OWN = {"prompt_tokens": 18, "completion_tokens": 2}


@pytest.mark.parametrize(
    ("told", "usage", "n_warnings"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 3}, Usage(2, 40, 6), 0),
        ({"prompt_tokens": 20, "total_tokens": 20}, Usage(2, 40, 0), 0),
        ("missing", None, 1),
        ({}, None, 1),
        ({"prompt_tokens": -5, "completion_tokens": 3}, None, 1),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None, 1),
        ({"prompt_tokens": "20", "completion_tokens": 3}, None, 1),
        ({"prompt_tokens": 10**9, "completion_tokens": 3}, None, 1),
        ({"prompt_tokens": 20, "completion_tokens": 5000}, Usage(2, 40, 10_000), 1),  # more than was allowed: thoughts
        ({"prompt_tokens": 20, "completion_tokens": 10**9}, None, 1),
        ({"prompt_tokens": True, "completion_tokens": 3}, None, 1),
        ({"prompt_tokens": 200, "completion_tokens": 3}, Usage(2, 400, 6), 1),  # may be, so it is only said
    ],
)
def test_wrong_usage_does_not_break_the_books_and_is_said_once(
    told: Any, usage: Usage | None, n_warnings: int, script: Any, warnings: list[str]
) -> None:
    script.reply = lambda path, body: (200, chat("fine", usage=told))
    ledger = Ledger()
    model = lm(script, ledger)
    model.complete([HELLO, [*HELLO[:1], Message("user", "Hello there, how is it?")]], max_new_tokens=9)
    n_own = model.n_prompt_tokens(HELLO)
    expected = usage or Usage(2, 2 * n_own, 2 * model.n_answer_tokens("fine"))
    assert ledger.spent["gpt-4o-mini"].usage == expected
    assert len(warnings) == n_warnings


def refuse(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> tuple[int, Json]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def picky(body: Json) -> tuple[int, Json]:
    """As OpenAI's reasoning models refuse, one field after the other, and as FastAPI's servers do."""
    if "max_tokens" in body:
        return refuse(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "max_tokens",
            "unsupported_parameter",
        )
    if body.get("temperature", 1) != 1:
        return refuse(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is "
            "supported.",
            "temperature",
            "unsupported_value",
        )
    if "seed" in body:
        return 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
    if "response_format" in body:
        return refuse("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.")
    return 200, chat("fine")


def test_what_a_server_does_not_take_is_left_out_and_said_once(script: Any, warnings: list[str]) -> None:
    script.reply = lambda path, body: picky(body)
    model = lm(script, concurrency=4)
    asked = [[Message("user", f"Hello {number}")] for number in range(12)]
    answers = model.complete(asked, max_new_tokens=9, temperature=0.7, response_format=FORM)
    assert [answer.text for answer in answers] == ["fine"] * 12
    assert set(script.got[-1]) == {"model", "messages", "max_completion_tokens"}
    assert len(warnings) == 4
    n_refused = len(script.got) - 12
    assert n_refused <= 4 * 4  # each thread once for each field
    ledger = model.calls.ledger
    n_before = len(script.got)
    OpenAILM.open(model.ref, ledger).complete(asked, max_new_tokens=9, temperature=0.7, response_format=FORM)
    assert len(script.got) == n_before  # a restart finds them, though it has yet to learn what is not taken


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("max_tokens is too large: 9. This model supports at most 4 completion tokens.", "max_tokens"),
        ("This model's maximum context length is 8 tokens, however you requested 9 tokens", "messages"),
        ("Invalid value for 'temperature': expected a number", None),
        ("Your messages are not allowed", "messages"),
    ],
)
def test_a_refused_value_is_final(message: str, param: str | None, script: Any) -> None:
    script.reply = lambda path, body: refuse(message, param)
    with pytest.raises(InputError) as told:
        lm(script).complete([HELLO], max_new_tokens=9)
    assert message in str(told.value)
    assert len(script.got) == 1


def test_a_server_that_refuses_everything_is_not_asked_for_ever(script: Any) -> None:
    script.reply = lambda path, body: refuse("unknown parameter: max_tokens, max_completion_tokens, temperature")
    with pytest.raises(InputError):
        lm(script).complete([HELLO], max_new_tokens=9)
    assert len(script.got) < 10


def no_limit(body: Json) -> tuple[int, Json]:
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            return refuse(f"Unsupported parameter: '{name}'", name, "unsupported_parameter")
    return 200, chat("fine", usage={"prompt_tokens": 20, "completion_tokens": 5000})


def test_an_answer_without_a_limit_is_booked_as_long_as_it_was(script: Any) -> None:
    script.reply = lambda path, body: no_limit(body)
    ledger = Ledger()
    lm(script, ledger).complete([HELLO], max_new_tokens=9)
    assert ledger.spent["gpt-4o-mini"].usage == Usage(1, 20, 5000)


def test_with_a_budget_the_limit_is_not_given_up(script: Any) -> None:
    script.reply = lambda path, body: no_limit(body)
    ledger = Ledger(prices={"gpt-4o-mini": Price(1.0, 1.0)}, budget_usd=1.0)
    with pytest.raises(ConfigError) as told:
        lm(script, ledger).complete([HELLO], max_new_tokens=9)
    assert told.value.where == "spending.budget_usd"
    assert not ledger.spent


def test_a_forms_schema_counts_as_prompt(script: Any) -> None:
    script.reply = lambda path, body: (200, chat("fine", usage="missing"))
    ledger = Ledger()
    model = lm(script, ledger)
    model.complete([HELLO], max_new_tokens=9, response_format=FORM)
    n_schema = model.tokens.n_text(json.dumps(FORM))
    assert n_schema > 15
    assert ledger.spent["gpt-4o-mini"].usage.n_prompt_tokens == model.n_prompt_tokens(HELLO) + n_schema


def test_where_no_usage_is_told_and_the_count_is_an_estimate_the_most_is_booked(script: Any) -> None:
    script.reply = lambda path, body: (200, chat("a fine answer", usage="missing"))
    ledger = Ledger()
    model = lm(script, ledger, "some-model")
    (answer,) = model.complete([HELLO], max_new_tokens=9)
    n_prompt, n_answer = model.n_prompt_tokens(HELLO), model.n_answer_tokens("a fine answer")
    assert (answer.n_prompt_tokens, answer.n_completion_tokens) == (n_prompt, n_answer)
    assert ledger.spent["some-model"].usage == Usage(1, math.ceil(2.5 * n_prompt), 9)


def test_openai_itself_is_told_max_completion_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-used")
    model = OpenAILM.open(ModelRef("openai", "gpt-4o-mini", base_url=OPENAI_URL), Ledger())
    assert model._chat.adapted({"max_tokens": 5}) == {"max_completion_tokens": 5}


def test_openais_key_must_be_there_and_other_servers_need_none(monkeypatch: pytest.MonkeyPatch, script: Any) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError) as told:
        open_generator(ModelRef("openai", "gpt-4o-mini"))
    assert told.value.where == "OPENAI_API_KEY"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary with a space")  # not looked at for another server
    assert lm(script).complete([HELLO], max_new_tokens=9)[0].text == "fine"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary with a space")
    with pytest.raises(ConfigError) as told:
        lm(script, api_key_env="OPENAI_API_KEY")
    assert "canary" not in str(told.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary\n")  # as `echo` writes it into a file
    lm(script, api_key_env="OPENAI_API_KEY").complete([HELLO], max_new_tokens=9)


def test_the_budget_is_held_by_what_a_prompt_can_have_where_its_tokens_are_an_estimate(script: Any) -> None:
    n = lm(script).n_prompt_tokens(HELLO)
    prices = {"some-model": Price(1.0, 0.0)}
    with pytest.raises(ConfigError):
        lm(script, Ledger(prices=prices, budget_usd=2 * n / 1e6), "some-model").complete([HELLO], max_new_tokens=9)
    assert not script.got
    lm(script, Ledger(prices=prices, budget_usd=3 * n / 1e6), "some-model").complete([HELLO], max_new_tokens=9)


# Scores: a server that echoes token ids with a log-probability each, as vLLM and SGLang do.


@pytest.fixture
def echo(script: Any, tiny_lm_folder: Path) -> Any:
    local = HuggingFaceLM.open(tiny_lm_folder, dtype="float32")

    def reply(path: str, body: Json) -> tuple[int, Json]:
        if path.endswith("/chat/completions"):
            return 200, chat("fine")
        import torch

        ids = body["prompt"]
        with torch.inference_mode():
            logits = local.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        values = [None, *(float(logits[at - 1, ids[at]]) for at in range(1, len(ids)))]
        generated = [-0.5]
        logprobs = {"token_logprobs": values + generated, "tokens": ["x"] * (len(ids) + 1)}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return 200, {"choices": [{"text": "", "logprobs": logprobs, "finish_reason": "length"}], "usage": usage}

    script.reply = reply
    script.local = local
    script.folder = tiny_lm_folder
    return script


def test_a_servers_scores_are_those_of_the_same_model_in_process(echo: Any) -> None:
    asked = [HELLO, [Message("user", "What is the colour of the sea?")]]
    answers = ["I am fine, thank you.", "Blue."]
    model = lm(echo, name="tiny", tokenizer=str(echo.folder), can_score=True)
    found = model.answer(asked, answers, max_new_tokens=9)
    expected = echo.local.score(asked, answers)
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine.reference, AnswerScore)
        assert mine.reference.n_tokens == theirs.n_tokens
        assert mine.reference.log_probability_nats == pytest.approx(theirs.log_probability_nats, abs=1e-3)
        assert mine.completion.text == "fine"
    n_before = len(echo.got)
    assert model.answer(asked, answers, max_new_tokens=9) == found
    assert len(echo.got) == n_before


def test_without_can_score_there_is_no_score(echo: Any) -> None:
    (found,) = lm(echo, name="tiny").answer([HELLO], ["fine"], max_new_tokens=9)
    assert found.reference is None


def test_a_server_that_does_not_echo_is_an_error_and_never_a_number(script: Any, tiny_lm_folder: Path) -> None:
    logprobs = {"token_logprobs": [-0.1], "tokens": ["x"]}
    script.reply = lambda path, body: (200, {"choices": [{"text": "x", "logprobs": logprobs}]})
    with pytest.raises(InputError, match="can_score: false"):
        lm(script, name="tiny", tokenizer=str(tiny_lm_folder), can_score=True).score([HELLO], ["fine"])


def test_prompts_are_measured_by_the_tokenizer_that_is_named(tiny_lm_folder: Path, script: Any) -> None:
    chat_format = ChatFormat(AutoTokenizer.from_pretrained(tiny_lm_folder))
    model = lm(script, name="tiny", tokenizer=str(tiny_lm_folder), context_tokens=512)
    assert model.n_prompt_tokens(HELLO) == len(chat_format.prompt_ids(HELLO))
    assert model.n_answer_tokens("I am fine.") == len(chat_format.answer_ids("I am fine."))
    assert model.context_tokens == 512
