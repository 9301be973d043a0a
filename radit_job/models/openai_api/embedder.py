"""A text encoder behind an address: /embeddings."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from radit_job.hashing import digest
from radit_job.model_ref import ModelRef
from radit_job.models.base import OnDone, Vectors
from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api.attempts import Request
from radit_job.models.openai_api.billing import Bills
from radit_job.models.openai_api.calls import Calls
from radit_job.models.openai_api.client import Endpoint, Reply
from radit_job.models.openai_api.dialect import Dialect
from radit_job.models.openai_api.failures import BROKEN, CallFailed
from radit_job.models.openai_api.tokens import ServedTokens

MAX_TEXTS = 64  # in one call
MAX_TOKENS = 100_000  # in one call; OpenAI takes 300,000
WIRE = np.dtype("<f4")  # how base64 vectors are written


class OpenAIEmbedder:
    """An Embedder; every vector is found in the ledger or paid for, and then kept there."""

    def __init__(self, ref: ModelRef, endpoint: Endpoint, ledger: Ledger) -> None:
        self.ref = ref
        self.tokens = ServedTokens(ref)
        self.calls = Calls(ref, ledger)
        dialect = Dialect(ref, has_budget=ledger.budget_usd is not None)
        self._service = _Embeddings(endpoint, dialect, Bills(ref.name, margin=self.tokens.margin))
        self._dimension: int | None = None

    @classmethod
    def open(cls, ref: ModelRef, ledger: Ledger) -> OpenAIEmbedder:
        """Nothing is sent yet; ConfigError if OpenAI's key is missing."""
        return cls(ref, Endpoint.open(ref), ledger)

    @property
    def dimension(self) -> int:
        """Length of a vector; asks the server with one word if it has not been asked for anything yet."""
        if self._dimension is None:
            self._dimension = int(self._embed(["dimension"], MAX_TEXTS, None).shape[1])
        return self._dimension

    def embed_documents(self, texts: Sequence[str], *, batch_size: int = 32, on_done: OnDone | None = None) -> Vectors:
        """See `Embedder`; `batch_size` texts go into one call."""
        return self._embed(texts, batch_size, on_done)

    def embed_queries(self, texts: Sequence[str], *, batch_size: int = 32, on_done: OnDone | None = None) -> Vectors:
        """As `embed_documents`: the API knows one kind of text."""
        return self._embed(texts, batch_size, on_done)

    def _embed(self, texts: Sequence[str], batch_size: int, on_done: OnDone | None) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        n_told, n_calls = 0, 0
        batches = self._batches(texts, min(batch_size, MAX_TEXTS))

        def tell(n_more: int) -> None:  # calls end in any order; texts are told as if they ended in theirs
            nonlocal n_told, n_calls
            n_calls += n_more
            n_texts = sum(len(batch) for batch, _ in batches[:n_calls])
            if on_done:
                on_done(n_texts - n_told)
            n_told = n_texts

        found = self.calls.answers(self._service, self._requests(batches), tell)
        parts = [_vectors(kept) for kept in found]
        self._dimension = parts[0].shape[1]
        return np.concatenate(parts)

    def _batches(self, texts: Sequence[str], most: int) -> list[tuple[list[str], int]]:
        """Texts in their order, with their tokens; a text alone may be longer than MAX_TOKENS."""
        batches: list[tuple[list[str], int]] = []
        for text in texts:
            n_tokens = self.tokens.n_text(text)
            if not batches or len(batches[-1][0]) == most or batches[-1][1] + n_tokens > MAX_TOKENS:
                batches.append(([], 0))
            batch, n_before = batches[-1]
            batch.append(text)
            batches[-1] = (batch, n_before + n_tokens)
        return batches

    def _requests(self, batches: list[tuple[list[str], int]]) -> Iterator[Request]:
        for batch, n_tokens in batches:
            body = {"model": self.ref.name, "input": batch, "encoding_format": "base64"}
            key = digest({"base_url": self.ref.base_url, "kind": "embeddings", "body": body})
            yield Request(key, body, partial(int, n_tokens), 0, self.tokens.margin)


class _Embeddings:
    """The vectors of one batch."""

    def __init__(self, endpoint: Endpoint, dialect: Dialect, bills: Bills) -> None:
        self.send = endpoint.embeddings
        self.adapted, self.adapt = dialect.adapted, dialect.adapt
        self._bills = bills

    def read(self, request: Request, n_prompt_tokens: int, reply: Reply) -> tuple[dict[str, Any], Usage]:
        texts = request.body["input"]
        rows = reply.body.get("data")
        if not isinstance(rows, list) or len(rows) != len(texts) or not all(isinstance(row, dict) for row in rows):
            raise _broken("has not one vector for each text")
        try:
            placed = {int(row.get("index", place)): _floats(row["embedding"]) for place, row in enumerate(rows)}
            vectors = np.stack([placed[place] for place in range(len(texts))])
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise _broken("has vectors that cannot be read") from None
        if vectors.ndim != 2:
            raise _broken("has vectors that are none")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise _broken("has vectors that are zero or no numbers")
        unit = (vectors / lengths).astype(WIRE)
        told = reply.body.get("usage")
        bill = self._bills.of(told, n_prompt_tokens, 0, 0)
        return {"dimension": unit.shape[1], "vectors": base64.b64encode(unit.tobytes()).decode()}, bill.charged


def _floats(embedding: Any) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), WIRE).astype(np.float32)
    return np.asarray(embedding, np.float32)


def _vectors(kept: dict[str, Any]) -> Vectors:
    flat = np.frombuffer(base64.b64decode(kept["vectors"]), WIRE).astype(np.float32)
    return flat.reshape(-1, kept["dimension"])


def _broken(what: str) -> CallFailed:
    return CallFailed(200, BROKEN, f"the answer {what}", None, True)
