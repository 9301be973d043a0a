"""index: the chunks' vectors, in the order of the chunks."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np

from radit_job import observe
from radit_job.config.slices import IndexSlice
from radit_job.errors import InputError
from radit_job.hashing import digest_file
from radit_job.models.base import Embedder
from radit_job.models.loading import open_embedder
from radit_job.rag.vector_index import CHUNK_IDS, VECTORS, write_facts
from radit_job.records import Chunk, read_rows

BLOCK_CHUNKS = 1024  # embedded at once, sorted by length among themselves; what a kill can cost


def run(config: IndexSlice, *, chunks: Path, out: Path, scratch: Path) -> dict[str, float]:
    """Read `chunks`, write `embeddings`. A killed run goes on behind the last whole block."""
    rows = chunks / "chunks.jsonl"
    folder = out / "embeddings"
    folder.mkdir()
    n_chunks = _write_chunk_ids(rows, folder / CHUNK_IDS)
    if n_chunks == 0:
        raise InputError("there are no chunks to index", where=str(rows))
    model = config.embedder
    embedder = open_embedder(model.provider, model.name, model.revision, model.dtype)
    n_kept = _embed(rows, n_chunks, embedder, scratch)
    shutil.move(scratch / VECTORS, folder / VECTORS)
    write_facts(
        folder,
        dimension=embedder.dimension,
        n_chunks=n_chunks,
        embedder=model.model_dump(),
        corpus_digest=digest_file(rows),
    )
    return {"n_chunks": n_chunks, "dimension": embedder.dimension, "n_resumed": n_kept}


def _write_chunk_ids(rows: Path, path: Path) -> int:
    n_chunks = 0
    with path.open("w", encoding="utf-8") as file:
        for chunk in read_rows(rows, Chunk):
            file.write(json.dumps(chunk.chunk_id, ensure_ascii=False) + "\n")
            n_chunks += 1
    return n_chunks


def _embed(rows: Path, n_chunks: int, embedder: Embedder, scratch: Path) -> int:
    """Fill scratch/vectors.npy block by block; returns how many rows an earlier try had left there."""
    path, mark = scratch / VECTORS, scratch / "n_done.txt"
    n_kept = int(mark.read_text()) if mark.exists() and path.exists() else 0
    if not n_kept:
        mark.unlink(missing_ok=True)  # an old one would vouch for the zeros of the new file
    mode = "r+" if n_kept else "w+"
    vectors = np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=(n_chunks, embedder.dimension))
    chunks = itertools.islice(read_rows(rows, Chunk), n_kept, None)
    n_done = n_kept
    with observe.progress("embedding chunks", total=n_chunks, unit="chunks") as bar:
        bar.advance(n_kept)
        while texts := [chunk.text for chunk in itertools.islice(chunks, BLOCK_CHUNKS)]:
            block = embedder.embed_documents(texts, on_done=bar.advance)  # [block, dimension]
            _check_finite(block)
            vectors[n_done : n_done + len(block)] = block
            vectors.flush()
            n_done += len(block)
            _replace_text(mark, str(n_done))
    return n_kept


def _check_finite(vectors: np.ndarray) -> None:
    if not np.isfinite(vectors).all():
        raise InputError(
            "the embedder gave vectors that are not numbers",
            where="models.embedder",
            todo="Try dtype: float32, or another model.",
        )


def _replace_text(path: Path, text: str) -> None:
    """Write a small file so that a kill leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
