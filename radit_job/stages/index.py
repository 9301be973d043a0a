"""index: the chunks' vectors, in the order of the chunks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from radit_job import observe
from radit_job.config.fields import result_values
from radit_job.config.models import Model
from radit_job.config.slices import IndexSlice
from radit_job.errors import InputError
from radit_job.hashing import digest_file
from radit_job.jobs import WHOLE, Shard
from radit_job.models.base import Embedder, Vectors
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_embedder
from radit_job.rag.vector_index import BLOCK_ROWS, write_block, write_facts
from radit_job.records import Chunk, parse_row

PART_ROWS = 1024  # embedded at once, sorted by length among themselves; what a kill can cost


def run(
    config: IndexSlice, *, chunks: Path, out: Path, scratch: Path, ledger: Ledger | None = None, shard: Shard = WHOLE
) -> dict[str, float]:
    """Read `chunks`, write `embeddings`, in blocks of BLOCK_ROWS chunks.

    What is embedded is kept in `scratch`, so a killed run goes on behind the last PART_ROWS chunks. What a paid service
    gave is in the ledger, and not kept a second time.
    """
    rows = chunks / "chunks.jsonl"
    folder = out / "embeddings"
    n_chunks = _n_lines(rows)
    if n_chunks == 0:
        raise InputError("there are no chunks to index", where=str(rows))
    embedding = _Embedding(config.embedder, scratch, ledger)
    n_mine = sum(
        min(BLOCK_ROWS, n_chunks - start)
        for number, start in enumerate(range(0, n_chunks, BLOCK_ROWS))
        if shard.takes(number)
    )
    with observe.progress("embedding chunks", total=n_mine, unit="chunks") as bar:
        for number, lines in enumerate(_blocks(rows)):
            if not shard.takes(number):
                continue
            block = [parse_row(line, Chunk) for line in lines]
            vectors = embedding.of_block(number, [chunk.text for chunk in block], bar)
            write_block(folder, number, vectors, [chunk.chunk_id for chunk in block])
    if shard.takes(0):
        write_facts(
            folder,
            dimension=embedding.embedder.dimension,
            n_chunks=n_chunks,
            embedder=result_values(config.embedder),
            corpus_digest=digest_file(rows),
        )
    return {"n_chunks": n_mine, "n_resumed": embedding.n_resumed}


def _n_lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _blocks(path: Path) -> Iterator[list[str]]:
    """Lines, BLOCK_ROWS at a time; only who needs a block reads what is in it."""
    with path.open(encoding="utf-8") as lines:
        while block := list(itertools.islice(lines, BLOCK_ROWS)):
            yield block


class _Embedding:
    """Vectors by an embedder that is opened when the first text needs it, kept part by part in scratch."""

    def __init__(self, model: Model, scratch: Path, ledger: Ledger | None) -> None:
        self._model = model
        self._ledger = ledger
        self._scratch = scratch
        self.n_resumed = 0  # rows that an earlier try had left

    @cached_property
    def embedder(self) -> Embedder:
        model = self._model
        return open_embedder(model.ref(), self._ledger)

    def of_block(self, number: int, texts: list[str], bar: observe.Progress) -> Vectors:
        """The texts' vectors, [len(texts), dimension]."""
        if self._model.provider == "openai":
            return self._embedded(texts, bar)  # at once: calls would stand idle at the end of each part
        parts = [texts[start : start + PART_ROWS] for start in range(0, len(texts), PART_ROWS)]
        return np.concatenate([self._part(f"{number:06d}-{n:02d}", part, bar) for n, part in enumerate(parts)])

    def _part(self, name: str, texts: list[str], bar: observe.Progress) -> Vectors:
        path = self._scratch / f"{name}.npy"
        if path.exists():
            kept: Vectors = np.load(path, allow_pickle=False)
            self.n_resumed += len(kept)
            bar.advance(len(kept))
            return kept
        vectors = self._embedded(texts, bar)
        partial = self._scratch / f"{name}.partial.npy"
        np.save(partial, vectors)
        partial.replace(path)  # whole or not at all, whenever the process is killed or the folder copied
        return vectors

    def _embedded(self, texts: list[str], bar: observe.Progress) -> Vectors:
        vectors = self.embedder.embed_documents(texts, on_done=bar.advance)  # [part, dimension]
        _check_finite(vectors)
        return vectors


def _check_finite(vectors: Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise InputError(
            "the embedder gave vectors that are not numbers",
            where="models.embedder",
            todo="Try dtype: float32, or another model.",
        )
