"""Many calls against a server that misbehaves: none lost, none paid twice, and what is final stops the rest."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from radit_job import observe
from radit_job.errors import ConfigError, InputError, RaditError, ServiceError
from radit_job.model_ref import ModelRef
from radit_job.models.base import Completion
from radit_job.models.cost import Price
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api import calls, endurance, patience
from radit_job.models.openai_api.attempts import Request
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import CallFailed
from radit_job.models.openai_api.lm import OpenAILM
from radit_job.records import Message
from tests.servers.openai_server import Fault, OpenAIServer, openai_server

MODEL = "gpt-4o-mini"
TEMPLATE = """Context information is below.
---------------------
The colour of house {number} is shade{number}. Houses stand by the sea.
---------------------
Query: What is the colour of house {number}?
Answer: """


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    with openai_server() as running:
        monkeypatch.setenv("OPENAI_API_KEY", running.key)
        yield running


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []
    observe.send_events_to(seen.append)
    yield seen
    observe.send_events_to(lambda event: None)


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_BACKOFF_S", 0.02)


def lm(server: OpenAIServer, ledger: Ledger | None = None, **settings: Any) -> OpenAILM:
    ref = ModelRef("openai", MODEL, base_url=server.url, api_key_env="OPENAI_API_KEY", **settings)
    return OpenAILM.open(ref, ledger or Ledger())


def question(number: int) -> list[Message]:
    return [Message("user", TEMPLATE.format(number=number))]


def ask(model: OpenAILM, n: int, **more: Any) -> list[Completion]:
    return model.complete([question(number) for number in range(n)], max_new_tokens=64, **more)


def are_right(answers: list[Completion]) -> bool:
    return all(f"shade{number}" in answer.text for number, answer in enumerate(answers))


def test_of_many_with_a_fifth_refused_none_is_lost_and_none_is_doubled(server: OpenAIServer) -> None:
    server.misbehave(
        Fault("rate_limit", on="chat", share=0.1, retry_after_s=0.05), Fault("server_error", on="chat", share=0.1)
    )
    done: list[int] = []
    ledger = Ledger()
    answers = ask(lm(server, ledger), 150, on_done=done.append)
    assert len(answers) == sum(done) == 150
    assert are_right(answers)
    assert server.billed["chat"] == 150
    assert not server.books.duplicates("chat")
    told = server.books.tokens()[MODEL]
    usage = ledger.spent[MODEL].usage
    assert (usage.n_calls, usage.n_prompt_tokens, usage.n_completion_tokens) == (
        told["calls"],
        told["prompt"],
        told["completion"],
    )
    assert server.books.most_at_once["chat"] <= 8


def test_the_wall_time_is_near_what_the_stated_limit_allows(server: OpenAIServer) -> None:
    server.change({"requests_per_minute": 2400, "burst_s": 0.25})
    server.misbehave(Fault("rate_limit", share=0.1, retry_after_s=0.2), Fault("server_error", share=0.1))
    began_s = time.monotonic()
    assert len(ask(lm(server), 120)) == 120
    # The limit allows 40 a second, and a fifth of what it lets in comes to nothing; the rest is for a busy machine.
    assert time.monotonic() - began_s < 2 * 120 / 40


@pytest.mark.parametrize("kind", ["lost", "reset_mid_body", "cut", "truncated", "html_200", "empty_choices", "reset"])
def test_an_answer_that_never_came_whole_is_asked_again_and_counted_as_lost(
    kind: str, server: OpenAIServer, events: list[dict[str, Any]]
) -> None:
    server.misbehave(Fault(kind, on="chat", times=3))
    model = lm(server)
    assert are_right(ask(model, 10))
    assert model.calls.n_lost == 3
    assert any(event.get("n_lost") == 3 for event in events)


def test_a_call_ends_with_its_time_though_drops_of_its_answer_keep_coming(server: OpenAIServer) -> None:
    server.misbehave(Fault("slow", on="chat", times=1, seconds=4))
    model = lm(server, timeout_s=1.0)
    assert are_right(ask(model, 1))
    assert model.calls.n_lost == 1


def test_silence_ends_with_the_time_that_a_call_may_take(server: OpenAIServer) -> None:
    server.misbehave(Fault("hang", on="chat", times=2, seconds=30))
    model = lm(server, timeout_s=1.0)
    assert are_right(ask(model, 6))
    assert model.calls.n_lost == 2


@pytest.mark.parametrize("kind", ["unavailable", "html", "server_error"])
def test_an_outage_passes(kind: str, server: OpenAIServer) -> None:
    server.misbehave(Fault(kind, on="chat", times=20))
    assert are_right(ask(lm(server), 10))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("insufficient_quota", "quota"),
        ("model_not_found", "does not exist"),
        ("forbidden", "does not have access"),
        ("context_length", "maximum context length"),
        ("content_filter", "filter"),
    ],
)
def test_what_does_not_pass_stops_the_rest_with_the_servers_words_and_keeps_what_came(
    kind: str, words: str, server: OpenAIServer
) -> None:
    server.misbehave(Fault(kind, on="chat", after=10))
    ledger = Ledger()
    with pytest.raises(InputError) as told:
        ask(lm(server, ledger), 40)
    assert words in str(told.value)
    assert server.key not in str(told.value)
    assert server.billed["chat"] == ledger.spent[MODEL].usage.n_calls == 10
    assert len(server.requests) < 30
    server.behave()
    assert are_right(ask(lm(server, ledger), 40))
    assert server.billed["chat"] == 40


def test_a_wrong_key_is_told_without_the_key(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.change({"whole_key_in_401": True})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-canary-999")
    with pytest.raises(InputError) as told:
        ask(lm(server), 5)
    chain: BaseException | None = told.value
    while chain is not None:
        assert "canary-999" not in f"{chain} {chain!r}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert "OPENAI_API_KEY" in str(told.value)


def test_a_server_that_stays_silent_is_given_up_after_its_patience(server: OpenAIServer) -> None:
    server.misbehave(Fault("server_error", on="chat", after=3))
    ledger = Ledger()
    began_s = time.monotonic()
    with pytest.raises(ServiceError):
        ask(lm(server, ledger, patience_s=0.5), 100)
    assert time.monotonic() - began_s < 5
    assert ledger.spent[MODEL].usage.n_calls == 3


def test_one_request_that_fails_for_ever_ends_though_others_are_answered(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MAX_BACKOFF_S", 0.05)
    server.change({"latency_s": 0.05})
    server.misbehave(Fault("server_error", on="chat", containing="house 3?"))
    with pytest.raises(ServiceError):
        ask(lm(server, patience_s=0.5, concurrency=2), 300)
    assert server.billed["chat"] < 200


def test_a_server_that_is_not_there_is_told_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ModelRef("openai", MODEL, base_url="http://127.0.0.1:9/v1", patience_s=0.2)
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9 cannot be reached"):
        ask(OpenAILM.open(ref, Ledger()), 3)


def test_a_longer_wait_than_the_patience_is_not_begun(server: OpenAIServer) -> None:
    server.misbehave(Fault("rate_limit", on="chat", retry_after_s=3600))
    began_s = time.monotonic()
    with pytest.raises(ServiceError):
        ask(lm(server, patience_s=30), 3)
    assert time.monotonic() - began_s < 5


def test_equal_requests_are_asked_once(server: OpenAIServer) -> None:
    done: list[int] = []
    answers = lm(server).complete([question(1)] * 20 + [question(2)], max_new_tokens=64, on_done=done.append)
    assert server.billed["chat"] == 2
    assert [answer.text for answer in answers[:20]] == [answers[0].text] * 20
    assert sum(done) == 21


def test_what_is_kept_is_not_asked_again(server: OpenAIServer, tmp_path: Path) -> None:
    first = ask(lm(server, Ledger(tmp_path)), 10)
    assert ask(lm(server, Ledger(tmp_path)), 10) == first
    assert server.billed["chat"] == 10


def test_the_budget_stops_before_the_call_that_would_exceed_it(server: OpenAIServer) -> None:
    prices = {MODEL: Price(1.0, 10.0)}
    whole = Ledger(prices=prices)
    ask(lm(server, whole), 20)
    cost = whole.spent[MODEL].usd
    assert cost is not None
    ledger = Ledger(prices=prices, budget_usd=cost / 2)
    with pytest.raises(ConfigError) as told:
        ask(lm(server, ledger), 20)
    assert told.value.where == "spending.budget_usd"
    spent = ledger.spent[MODEL].usd
    assert spent is not None and spent <= cost / 2
    most_of_one = (100 * 1.0 + 64 * 10.0) / 1e6
    assert spent > cost / 2 - 2 * most_of_one  # calls under way are waited for, not taken for spent
    assert server.billed["chat"] == 20 + ledger.spent[MODEL].usage.n_calls


def test_lost_calls_stay_set_aside_in_the_budget(server: OpenAIServer) -> None:
    server.misbehave(Fault("lost", on="chat"))
    most_of_one = (200 * 1.0 + 64 * 10.0) / 1e6
    with pytest.raises(ConfigError):
        ask(lm(server, Ledger(prices={MODEL: Price(1.0, 10.0)}, budget_usd=3 * most_of_one)), 20)
    assert server.billed["chat"] <= 4


def test_a_lost_call_is_in_the_books_of_the_next_process_too(server: OpenAIServer, tmp_path: Path) -> None:
    server.misbehave(Fault("lost", on="chat", times=3))
    prices = {MODEL: Price(1.0, 10.0)}
    model = lm(server, Ledger(tmp_path, prices=prices))
    assert are_right(ask(model, 10))
    spent = Ledger(tmp_path, prices=prices).spent[MODEL]
    assert spent.usage.n_calls == server.billed["chat"] == 13
    n_prompt = max(model.n_prompt_tokens(question(number)) for number in range(10))
    told = server.books.tokens()[MODEL]
    assert told["completion"] < spent.usage.n_completion_tokens <= told["completion"] + 3 * 64
    assert spent.usage.n_prompt_tokens <= 13 * n_prompt


def test_answers_that_are_paid_for_and_useless_are_not_asked_for_again_and_again(server: OpenAIServer) -> None:
    server.misbehave(Fault("empty_choices", on="chat"))
    ledger = Ledger()
    with pytest.raises(ServiceError):
        ask(lm(server, ledger), 100)
    most = endurance.MAX_LOST_IN_ROW * 8 + 7  # 7 under way while the last one came
    assert server.billed["chat"] == ledger.spent[MODEL].usage.n_calls <= most


def test_one_request_whose_answers_are_useless_ends_after_a_few(server: OpenAIServer) -> None:
    server.change({"latency_s": 0.01})
    server.misbehave(Fault("empty_choices", on="chat", containing="house 3?"))
    model = lm(server)
    with pytest.raises(ServiceError):
        ask(model, 1000)
    assert model.calls.n_lost == endurance.MAX_LOST


def test_after_a_final_error_nothing_more_is_paid_for(server: OpenAIServer) -> None:
    server.change({"latency_s": 0.1})
    server.misbehave(Fault("forbidden", on="chat", times=1))
    n_prompt = lm(server).n_prompt_tokens(question(1))
    budget_usd = (1.5 * n_prompt * 1.0 + 64 * 10.0) / 1e6  # for one call; the others wait for what it does not need
    with pytest.raises(InputError):
        ask(lm(server, Ledger(prices={MODEL: Price(1.0, 10.0)}, budget_usd=budget_usd)), 8)
    assert server.billed["chat"] == 0
    assert len(server.requests) == 1


class OneAtATime(BaseHTTPRequestHandler):
    """A healthy server that takes one call at a time and says to all others that it is busy, and not until when."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or each answer would wait for an acknowledgement
    free = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.free.acquire(blocking=False):
            time.sleep(0.02)
            self.answer(200, {"choices": [{"message": {"content": body["messages"][0]["content"]}}]})
            self.free.release()
        else:
            self.answer(429, {"error": {"message": "busy"}})

    def answer(self, status: int, plain: Any) -> None:
        data = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def test_a_slow_healthy_server_that_is_busy_most_of_the_time_is_not_given_up() -> None:
    http = ThreadingHTTPServer(("127.0.0.1", 0), OneAtATime)
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{http.server_port}/v1"
        model = OpenAILM.open(ModelRef("openai", MODEL, base_url=url, concurrency=16, patience_s=1.5), Ledger())
        ask(model, 1)  # loads what takes a while
        assert are_right(ask(model, 80))
    finally:
        http.shutdown()
        http.server_close()


def test_requests_are_made_when_it_is_their_turn(server: OpenAIServer) -> None:
    server.misbehave(Fault("server_error", on="chat"))
    n_made = 0

    def made() -> Iterator[Request]:
        nonlocal n_made
        while True:
            n_made += 1
            body = model._chat_body(question(n_made), 64, 0.0, 0, None)
            yield Request(str(n_made), body, lambda: 10, 64)

    model = lm(server, patience_s=0.5, concurrency=2)
    with pytest.raises(ServiceError):
        model.calls.answers(model._chat, made())
    assert n_made <= 4 * 2 + 2


def test_an_error_while_making_a_request_is_raised_as_it_is(server: OpenAIServer) -> None:
    def made() -> Iterator[Request]:
        raise RuntimeError("no such row")
        yield

    model = lm(server)
    with pytest.raises(RuntimeError, match="no such row"):
        model.calls.answers(model._chat, made())


def test_no_thread_is_left_behind(server: OpenAIServer) -> None:
    before = threading.active_count()
    ask(lm(server), 20)
    deadline_s = time.monotonic() + 5
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("call-")]
    while any(thread.is_alive() for thread in ours) and time.monotonic() < deadline_s:
        for thread in ours:
            thread.join(0.1)
    assert not any(thread.is_alive() for thread in ours), before


ASKER = """
import sys
from pathlib import Path
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api.lm import OpenAILM
from radit_job.records import Message
url, folder, template = sys.argv[1:]
model = OpenAILM.open(
    ModelRef("openai", "gpt-4o-mini", base_url=url, api_key_env="OPENAI_API_KEY"), Ledger(Path(folder))
)
model.complete([[Message("user", template.format(number=number))] for number in range(100)], max_new_tokens=64)
print("done", flush=True)
"""


def asker(server: OpenAIServer, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **server.environment}
    return subprocess.Popen(
        [sys.executable, "-c", ASKER, server.url, str(folder), TEMPLATE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_billed(server: OpenAIServer, n: int) -> None:
    deadline_s = time.monotonic() + 60
    while server.billed["chat"] < n:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_killed_at_any_moment_it_pays_again_only_for_what_was_under_way(server: OpenAIServer, tmp_path: Path) -> None:
    server.change({"latency_s": 0.02})
    n_kills = 2
    for kill in range(n_kills):
        process = asker(server, tmp_path)
        wait_for_billed(server, server.billed["chat"] + 7 + 20 * kill)
        process.kill()
        process.wait()
    process = asker(server, tmp_path)
    output, _ = process.communicate(timeout=120)
    assert "done" in output
    assert 100 <= server.billed["chat"] <= 100 + 8 * n_kills
    assert Ledger(tmp_path).spent[MODEL].usage.n_calls == 100


def test_an_interrupt_ends_it_promptly_and_loses_nothing_that_was_kept(server: OpenAIServer, tmp_path: Path) -> None:
    server.change({"latency_s": 0.05})
    process = asker(server, tmp_path)
    wait_for_billed(server, 20)
    server.misbehave(Fault("hang", on="chat", seconds=60))  # whoever waited for these would not be prompt
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - began_s < calls.GRACE_S + 5
    rows = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    n_delivered = sum(row.delivered and row.billed for row in server.requests)
    assert sum("is_open" not in row for row in rows) == n_delivered
    assert Ledger(tmp_path).spent[MODEL].usage.n_calls == server.billed["chat"]  # those that hung may be charged


def test_single_calls_are_patient_by_the_same_rules(server: OpenAIServer) -> None:
    ref = ModelRef("openai", MODEL, base_url=server.url, api_key_env="OPENAI_API_KEY")
    endpoint = Endpoint.open(ref)
    server.misbehave(Fault("server_error", on="models", times=2))
    assert MODEL in patience.patiently(endpoint.models, ref)
    server.misbehave(Fault("forbidden", on="models"))
    with pytest.raises(InputError, match="access"):
        patience.patiently(endpoint.models, ref)
    server.misbehave(Fault("lost", on="models", times=1))
    with pytest.raises(CallFailed):
        patience.patiently(endpoint.models, ref, once_sent=True)
    server.misbehave(Fault("unavailable", on="models"))
    with pytest.raises(RaditError):
        patience.patiently(endpoint.models, replace(ref, patience_s=0.2))
