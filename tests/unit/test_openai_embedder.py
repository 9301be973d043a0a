"""Vectors from a server: in order, of length one, paid for once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radit_job.errors import InputError
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_embedder
from radit_job.models.openai_api import embedder, patience
from radit_job.models.openai_api.attempts import Request
from radit_job.models.openai_api.client import Reply
from radit_job.models.openai_api.embedder import OpenAIEmbedder
from radit_job.models.openai_api.failures import CallFailed
from tests.servers.openai_server import Fault, OpenAIServer, openai_server
from tests.servers.openai_server.embedding import embed

MODEL = "text-embedding-3-small"
TEXTS = [f"the colour of house number {number} is a shade of grey {number * number}" for number in range(100)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(patience, "FIRST_BACKOFF_S", 0.02)
    with openai_server() as running:
        monkeypatch.setenv("OPENAI_API_KEY", running.key)
        yield running


def open_it(server: OpenAIServer, ledger: Ledger | None = None, **settings: Any) -> OpenAIEmbedder:
    ref = ModelRef("openai", MODEL, base_url=server.url, api_key_env="OPENAI_API_KEY", **settings)
    return OpenAIEmbedder.open(ref, ledger or Ledger())


def test_vectors_come_in_the_order_of_the_texts_with_length_one(server: OpenAIServer) -> None:
    done: list[int] = []
    ledger = Ledger()
    model = open_it(server, ledger)
    vectors = model.embed_documents(TEXTS, batch_size=16, on_done=done.append)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.stack([embed(text) for text in TEXTS]), abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert server.billed["embeddings"] == 7
    assert sum(done) == 100
    assert model.dimension == 256
    assert server.billed["embeddings"] == 7
    assert ledger.spent[MODEL].usage.n_prompt_tokens == server.books.tokens()[MODEL]["prompt"]


def test_the_dimension_is_asked_for_when_nothing_else_was(server: OpenAIServer) -> None:
    model = open_embedder(ModelRef("openai", MODEL, base_url=server.url, api_key_env="OPENAI_API_KEY"))
    assert model.dimension == 256
    assert server.billed["embeddings"] == 1
    assert model.embed_queries([]).shape == (0, 256)


def test_vectors_are_kept_and_not_paid_for_again(server: OpenAIServer, tmp_path: Path) -> None:
    first = open_it(server, Ledger(tmp_path)).embed_documents(TEXTS)
    again = open_it(server, Ledger(tmp_path)).embed_documents(TEXTS)
    assert np.array_equal(first, again)
    assert server.billed["embeddings"] == 4


def test_a_call_holds_a_bounded_number_of_tokens(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "MAX_TOKENS", 100)
    n_tokens = [open_it(server).tokens.n_text(text) for text in TEXTS[:20]]
    open_it(server).embed_documents([*TEXTS[:20], "long " * 200], batch_size=1000)
    rows = [row for row in server.requests if row.operation == "embeddings"]
    assert all(row.prompt_tokens <= 100 for row in rows if row.prompt_tokens < 200)
    assert sum(row.prompt_tokens for row in rows) == pytest.approx(sum(n_tokens) + 200, abs=3)


@pytest.mark.parametrize("kind", ["truncated", "lost", "server_error", "rate_limit"])
def test_failures_pass(kind: str, server: OpenAIServer) -> None:
    server.misbehave(Fault(kind, on="embeddings", times=2, retry_after_s=0.05))
    assert open_it(server).embed_documents(TEXTS).shape == (100, 256)


def test_a_server_that_does_not_take_base64_sends_lists(server: OpenAIServer) -> None:
    server.misbehave(Fault("unsupported_parameter", on="embeddings", param="encoding_format"))
    vectors = open_it(server).embed_documents(TEXTS[:10])
    assert vectors == pytest.approx(np.stack([embed(text) for text in TEXTS[:10]]), abs=1e-6)
    assert {row.status for row in server.requests} == {200, 400}


def test_a_text_that_is_too_long_stops_with_the_servers_words(server: OpenAIServer) -> None:
    with pytest.raises(InputError, match="maximum context length is 8192"):
        open_it(server).embed_documents(["short", "long " * 9000])


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0, 0.0]}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 0, "embedding": [1.0, 0.0]}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": [0.0, 0.0]}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": [float("nan"), 0.0]}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": "no base64"}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1}],
        [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": None}],
        [{"index": 0, "embedding": 1.0}, {"index": 1, "embedding": 1.0}],
    ],
)
def test_vectors_that_make_no_sense_are_a_broken_answer(data: list[Any], server: OpenAIServer) -> None:
    model = open_it(server)
    request = Request("key", {"input": ["one", "two"]}, lambda: 2)
    with pytest.raises(CallFailed) as told:
        model._service.read(request, 2, Reply({"data": data}, {}))
    assert told.value.may_be_billed
