"""The k nearest chunks of a few questions, with the seconds that it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from radit_job.models.base import Embedder
from radit_job.rag.context import Context
from radit_job.rag.retrieval import search
from radit_job.rag.vector_index import VectorIndex


@dataclass(frozen=True, slots=True)
class Found:
    """What several questions that come at the same moment are given; the times are of all of them together."""

    contexts: list[Context]
    embed_s: float
    retrieve_s: float


@dataclass(frozen=True, slots=True)
class Finder:
    """The run's index, opened: one batch of vectors and one search for all that is asked at a time."""

    index: VectorIndex
    texts: Sequence[str]  # of the chunks, in the order of the index
    embedder: Embedder
    k: int

    def __call__(self, questions: Sequence[str]) -> Found:
        """The questions' contexts, in their order."""
        start_s = time.perf_counter()
        vectors = self.embedder.embed_queries(list(questions))  # [n, dimension]
        embedded_s = time.perf_counter()
        found = search(self.index.vectors, vectors, k=self.k)
        contexts = [
            Context(
                chunk_ids=tuple(self.index.chunk_ids[row] for row in rows),
                scores=tuple(map(float, scores)),
                texts=tuple(self.texts[row] for row in rows),
                gold_rank=None,
            )
            for rows, scores in zip(found.rows, found.similarities, strict=True)
        ]
        return Found(contexts, embedded_s - start_s, time.perf_counter() - embedded_s)
