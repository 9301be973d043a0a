"""The `embeddings` artifact: the vectors and chunk ids in blocks of rows, and what they were made from.

vectors/<block>.npy        [BLOCK_ROWS, dimension] float32, rows of length 1; fewer rows in the last block
chunk_ids/<block>.jsonl    the chunk id of each row, as a JSON string; the blocks together are chunks.jsonl's lines
index.json                 format, dimension, n_chunks, embedder, corpus_digest
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radit_job.errors import InputError
from radit_job.rag.row_blocks import RowBlocks, Vectors

INDEX_FORMAT = 2
INDEX = "index.json"
BLOCK_ROWS = 8192  # 12 MB at 384 dimensions


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An opened index: the vectors stay on disk until they are read."""

    vectors: RowBlocks
    chunk_ids: list[str]
    facts: dict[str, Any]  # index.json

    @classmethod
    def open(cls, folder: Path) -> VectorIndex:
        """Open an `embeddings` folder; raises InputError when its files do not belong together."""
        facts = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if facts["format"] != INDEX_FORMAT:
            raise _mismatch(folder, f"{INDEX} has format {facts['format']}, not {INDEX_FORMAT}")
        try:
            vectors = RowBlocks.of_files(sorted((folder / "vectors").glob("*.npy")))
        except ValueError as error:
            raise _mismatch(folder, str(error)) from error
        ids = [_read_ids(path) for path in sorted((folder / "chunk_ids").glob("*.jsonl"))]
        n_ids = tuple(len(block) for block in ids)
        if vectors.sizes != n_ids or sum(n_ids) != facts["n_chunks"] or vectors.dimension != facts["dimension"]:
            raise _mismatch(
                folder,
                f"there are {len(vectors)} vectors of dimension {vectors.dimension} in {len(vectors.sizes)} blocks and "
                f"{sum(n_ids)} chunk ids in {len(n_ids)}, but {INDEX} says {facts['n_chunks']} x {facts['dimension']}",
            )
        return cls(vectors=vectors, chunk_ids=[chunk_id for block in ids for chunk_id in block], facts=facts)

    def gold_rows(self, gold_chunk_ids: Iterable[Iterable[str]]) -> list[list[int]]:
        """The rows of each question's gold chunks; raises InputError for a chunk that the index does not have."""
        row_of = {chunk_id: row for row, chunk_id in enumerate(self.chunk_ids)}
        try:
            return [[row_of[chunk_id] for chunk_id in chunk_ids] for chunk_ids in gold_chunk_ids]
        except KeyError as error:
            raise InputError(
                f"a question names the chunk {error}, which the index does not have",
                todo="Questions and index must come from the same chunks.",
            ) from None


def write_block(folder: Path, number: int, vectors: Vectors, chunk_ids: Sequence[str]) -> None:
    """Write one block of rows."""
    for name in ("vectors", "chunk_ids"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors" / f"{number:06d}.npy", vectors)
    lines = (json.dumps(chunk_id, ensure_ascii=False) + "\n" for chunk_id in chunk_ids)
    (folder / "chunk_ids" / f"{number:06d}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_facts(folder: Path, *, dimension: int, n_chunks: int, embedder: dict[str, Any], corpus_digest: str) -> None:
    """Write index.json beside the blocks."""
    facts = {
        "format": INDEX_FORMAT,
        "dimension": dimension,
        "n_chunks": n_chunks,
        "embedder": embedder,
        "corpus_digest": corpus_digest,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _read_ids(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _mismatch(folder: Path, what: str) -> InputError:
    return InputError(what, where=str(folder), todo="Make the index again.")
