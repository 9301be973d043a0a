"""A question's context: the chunks that retrieval gives it, with their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from radit_job import observe
from radit_job.errors import InputError
from radit_job.rag.retrieval import check_k, search, similarity
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Chunk, Question, read_rows

# Texts to [n, d] float32 vectors of length 1; `on_done` is called with how many more texts are finished.
EmbedQueries = Callable[..., npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class GoldChunk:
    """A chunk that holds the answer, wherever retrieval ranked it."""

    chunk_id: str
    score: float  # cosine similarity with the question
    text: str


@dataclass(frozen=True, slots=True)
class Context:
    """What retrieval found for one question, best first."""

    chunk_ids: tuple[str, ...]
    scores: tuple[float, ...]  # cosine similarity with the question
    texts: tuple[str, ...]
    gold_rank: int | None  # 1-based, of the best gold chunk among all chunks; None where the gold chunk is unknown
    gold: tuple[GoldChunk, ...] = ()  # best first; only where it was asked for


def find_contexts(
    questions: Sequence[Question],
    embed_queries: EmbedQueries,
    *,
    embeddings: Path,
    chunks: Path,
    k: int,
    with_gold: bool = False,
) -> list[Context]:
    """The k nearest chunks of each question, in the order of the questions.

    `embeddings` and `chunks` are the artifacts' folders; the chunks are streamed, and only the texts found are kept.
    `with_gold` gives each context its gold chunks too, also those that are not among the k.
    Raises ConfigError when k exceeds the number of chunks, InputError when index and chunks do not fit together.
    """
    index = VectorIndex.open(embeddings)
    check_k(k, len(index.chunk_ids))
    gold_rows = index.gold_rows(question.chunk_ids for question in questions)
    with observe.progress("embedding questions", total=len(questions), unit="questions") as bar:
        vectors = embed_queries([question.question for question in questions], on_done=bar.advance)
    with observe.progress("comparing with all chunks", total=len(index.chunk_ids), unit="chunks") as bar:
        found = search(index.vectors, vectors, k=k, gold_rows=gold_rows, on_done=bar.advance)
    ids = [tuple(index.chunk_ids[row] for row in rows) for rows in found.rows]
    gold = _gold_scores(index, vectors, gold_rows) if with_gold else [{} for _ in questions]
    texts = _texts(set().union(*ids, *gold), chunks / "chunks.jsonl")
    return [
        Context(
            chunk_ids=ids[number],
            scores=tuple(round(float(value), 6) for value in found.similarities[number]),
            texts=tuple(texts[chunk_id] for chunk_id in ids[number]),
            gold_rank=found.gold_ranks[number],
            gold=tuple(GoldChunk(chunk_id, score, texts[chunk_id]) for chunk_id, score in gold[number].items()),
        )
        for number in range(len(questions))
    ]


def _gold_scores(
    index: VectorIndex, queries: npt.NDArray[np.float32], gold_rows: Sequence[Sequence[int]]
) -> list[dict[str, float]]:
    """Of each question its gold chunks with their cosine, best first; equal ones in the order of the index."""
    wanted = np.unique(np.array([row for rows in gold_rows for row in rows], dtype=np.int64))
    vectors = index.vectors.take(wanted)  # all at once: each block is opened once
    found = []
    for number, rows in enumerate(gold_rows):
        own = np.unique(np.array(rows, dtype=np.int64))
        values = similarity(vectors[np.searchsorted(wanted, own)], queries[number : number + 1])
        order = np.argsort(-values, kind="stable")
        found.append({index.chunk_ids[own[at]]: round(float(values[at]), 6) for at in order})
    return found


def _texts(wanted: set[str], rows: Path) -> dict[str, str]:
    texts = {chunk.chunk_id: chunk.text for chunk in read_rows(rows, Chunk) if chunk.chunk_id in wanted}
    if missing := sorted(wanted - texts.keys()):
        raise InputError(
            f"the index names chunks that are not here, such as {missing[0]}",
            where=str(rows),
            todo="Index and chunks must come from the same ingest.",
        )
    return texts
