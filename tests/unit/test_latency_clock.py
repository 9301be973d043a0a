"""What the forward clock sees of real models, and the moments of a streamed answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from radit_job.latency.deferred_books import DeferredBooks
from radit_job.latency.forward_clock import ForwardClock, Pass, first_token_s, split
from radit_job.latency.machine import Limits, size_of
from radit_job.latency.task_prompts import REWRITE_PROMPT
from radit_job.model_ref import ModelRef
from radit_job.models.cost import Price, Usage
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import CallFailed
from radit_job.models.openai_api.streaming import StreamingChat
from radit_job.models.openai_api.tokens import ServedTokens
from radit_job.records import Message
from tests.servers.openai_server import KEY, openai_server

NAME = "gpt-4o-mini-2024-07-18"
TURNS = [Message("user", "How does a heron catch fish?")]


@pytest.fixture(scope="module")
def lm(tiny_lm_folder: Path) -> HuggingFaceLM:
    return HuggingFaceLM.open(tiny_lm_folder, dtype="float32", n_threads=1)


def test_one_prompt_is_one_prefill_and_a_pass_for_each_further_token(lm: HuggingFaceLM) -> None:
    with ForwardClock(lm.model) as clock:
        (done,) = lm.complete([TURNS], max_new_tokens=4)
    assert [one.is_prefill for one in clock.passes] == [True] + [False] * (done.n_completion_tokens - 1)
    assert clock.passes[0].n_tokens == done.n_prompt_tokens
    lm.complete([TURNS], max_new_tokens=4)
    assert len(clock.passes) == done.n_completion_tokens, "a clock that was closed sees nothing"


def test_a_shared_prefix_is_prefill_and_so_is_the_last_token_of_equal_prompts(lm: HuggingFaceLM) -> None:
    other = [Message("user", "How does a heron catch frogs, then?")]
    for turns, n_last in (([TURNS, other], 2), ([TURNS, TURNS], 1)):
        with ForwardClock(lm.model) as clock:
            lm.complete(turns, max_new_tokens=2)
        assert [one.is_prefill for one in clock.passes] == [True, True, False]
        assert [one.n_rows for one in clock.passes] == [1, 2, 2]
        assert clock.passes[1].n_tokens >= n_last and (n_last > 1 or clock.passes[1].n_tokens == 1)


def test_transformers_own_generate_is_seen_alike(lm: HuggingFaceLM) -> None:
    import torch

    with ForwardClock(lm.model) as clock:
        lm.model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert [(one.is_prefill, one.n_tokens) for one in clock.passes] == [(True, 4), (False, 1), (False, 1)]


def test_all_time_goes_to_a_part() -> None:
    passes = [Pass(1.0, 2.0, 1, 9, True), Pass(2.5, 3.0, 1, 1, False), Pass(3.25, 3.5, 1, 1, False)]
    assert split(passes, 0.0, 4.0) == {"prompt": 1.0, "prefill": 1.5, "decode": 1.5}
    assert first_token_s(passes) == 2.0 and first_token_s([]) is None
    assert split([], 1.0, 3.0) == {"prompt": 2.0, "prefill": 0.0, "decode": 0.0}


def test_the_sizes_are_those_of_the_weights(lm: HuggingFaceLM) -> None:
    size = size_of(lm.model)
    n_vocabulary = lm.model.config.vocab_size
    per_layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + 2 * 64  # q, k and v, o, the MLP, two norms
    assert size is not None and size.n_body == 2 * per_layer + 64
    assert (size.n_head, size.bytes_per_weight) == (n_vocabulary * 64, 4), "the table is shared, and counts as the head"
    assert size.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, their width, bytes
    assert size.attention_width == 2 * 4 * 16


def test_measuring_again_only_raises_what_the_machine_can_do(lm: HuggingFaceLM) -> None:
    limits = Limits(lm)
    before = limits.to_json()
    limits.measure()
    after = limits.to_json()
    assert before["dtype"] == "float32" and after["device"] == before["device"]
    for name in ("bandwidth_gb_per_s", "matrix_gflop_per_s"):
        assert after[name] >= before[name] > 0


def test_the_rewriting_prompt_is_llamaindexs_own() -> None:
    from llama_index.core.retrievers.fusion_retriever import QUERY_GEN_PROMPT

    assert REWRITE_PROMPT == QUERY_GEN_PROMPT


# A served model


def test_a_streamed_answer_has_a_first_token_and_its_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server() as server:
        ref = ModelRef("openai", NAME, base_url=server.url, api_key_env="OPENAI_API_KEY")
        ledger = Ledger(prices={NAME: Price(1.0, 2.0)}, budget_usd=1.0)
        books = DeferredBooks(ledger)
        chat = StreamingChat(ref, Endpoint.open(ref), books, ServedTokens(ref))
        found = chat.ask(chat.prepare(TURNS, 20))
        assert found.completion.text and found.first_token_s is not None
        assert found.sent_s < found.first_token_s <= found.end_s
        assert ledger.spent == {}, "nothing is saved while a clock may run"
        books.settle()
        usage = ledger.spent[NAME].usage
        assert (usage.n_calls, usage.n_completion_tokens) == (1, found.completion.n_completion_tokens)
        assert usage.n_prompt_tokens == found.completion.n_prompt_tokens


def test_a_server_that_refuses_a_field_is_asked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server() as server:
        server.misbehave(kind="unsupported_parameter", on="chat", param="stream_options")
        ref = ModelRef("openai", NAME, base_url=server.url, api_key_env="OPENAI_API_KEY")
        books = DeferredBooks(Ledger())
        chat = StreamingChat(ref, Endpoint.open(ref), books, ServedTokens(ref))
        found = chat.ask(chat.prepare(TURNS, 20))
        assert found.completion.n_completion_tokens > 1 and found.first_token_s is not None, "counted here"


@pytest.mark.parametrize(("kind", "is_billed"), [("server_error", False), ("reset_mid_body", True), ("cut", True)])
def test_a_call_without_a_whole_answer_is_booked_only_where_it_may_be_charged(
    kind: str, is_billed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server() as server:
        server.misbehave(kind=kind, on="chat")
        ref = ModelRef("openai", NAME, base_url=server.url, api_key_env="OPENAI_API_KEY")
        ledger = Ledger(prices={NAME: Price(1.0, 2.0)}, budget_usd=1.0)
        books = DeferredBooks(ledger)
        chat = StreamingChat(ref, Endpoint.open(ref), books, ServedTokens(ref))
        with pytest.raises(CallFailed):
            chat.ask(chat.prepare(TURNS, 20))
        books.settle()
        assert (NAME in ledger.spent) == is_billed
        assert ledger.reserve(NAME, Usage(1, 0, 450_000)).usd == 0.9, "nothing stays set aside"


def test_books_that_wait_hold_the_budget_all_the_same() -> None:
    from radit_job.errors import ConfigError

    ledger = Ledger(prices={NAME: Price(1.0)}, budget_usd=1.0)
    books = DeferredBooks(ledger)
    reservation = books.reserve(NAME, Usage(1, 800_000))
    books.keep("key", {"text": "answer"}, reservation, Usage(1, 700_000))
    assert books.find("key") is None
    with pytest.raises(ConfigError):
        books.reserve(NAME, Usage(1, 300_000))
    books.settle()
    assert ledger.spent[NAME].usd == pytest.approx(0.7) and ledger.find("key") is None
    books.reserve(NAME, Usage(1, 300_000))
