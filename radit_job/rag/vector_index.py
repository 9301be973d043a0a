"""The `embeddings` artifact: a matrix, the chunk id of each of its rows, and what it was made from.

vectors.npy        [n_chunks, dimension] float32, rows of length 1; row i belongs to line i of chunks.jsonl
chunk_ids.jsonl    line i is the chunk id of row i, as a JSON string
index.json         format, dimension, n_chunks, embedder, corpus_digest
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radit_job.errors import InputError

INDEX_FORMAT = 1
VECTORS, CHUNK_IDS, INDEX = "vectors.npy", "chunk_ids.jsonl", "index.json"


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An opened index: the vectors stay on disk until they are read."""

    vectors: npt.NDArray[np.float32]  # memory-mapped
    chunk_ids: list[str]
    facts: dict[str, Any]  # index.json

    @classmethod
    def open(cls, folder: Path) -> VectorIndex:
        """Open an `embeddings` folder; raises InputError when its files do not belong together."""
        facts = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        with (folder / CHUNK_IDS).open(encoding="utf-8") as lines:
            chunk_ids = [json.loads(line) for line in lines]
        if vectors.shape != (len(chunk_ids), facts["dimension"]) or vectors.dtype != np.float32:
            raise InputError(
                f"{VECTORS} is {vectors.dtype} {vectors.shape}, but {CHUNK_IDS} names {len(chunk_ids)} chunks and "
                f"{INDEX} says dimension {facts['dimension']}",
                where=str(folder),
                todo="Make the index again.",
            )
        return cls(vectors=vectors, chunk_ids=chunk_ids, facts=facts)

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


def write_facts(folder: Path, *, dimension: int, n_chunks: int, embedder: dict[str, Any], corpus_digest: str) -> None:
    """Write index.json beside the vectors."""
    facts = {
        "format": INDEX_FORMAT,
        "dimension": dimension,
        "n_chunks": n_chunks,
        "embedder": embedder,
        "corpus_digest": corpus_digest,
    }
    (folder / INDEX).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
