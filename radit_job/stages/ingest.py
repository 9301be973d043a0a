"""ingest: documents to token-sized chunks with page and character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from radit_job import observe
from radit_job.config.slices import IngestSlice
from radit_job.errors import InputError
from radit_job.models.token_counter import open_token_counter
from radit_job.rag.chunking import Chunker
from radit_job.rag.documents import KNOWN_SUFFIXES, Document, Unreadable, list_files
from radit_job.rag.parallel_reading import read_files
from radit_job.records import DocumentRow, to_json

SHOWN = 10  # names in one message


def run(config: IngestSlice, *, corpus: Path, out: Path, scratch: Path) -> dict[str, float]:
    """Write `chunks/chunks.jsonl` and `chunks/documents.jsonl`; a few documents are in memory at a time.

    Reads the user's files below `corpus/documents`. Raises InputError, with the names of all, when documents give no
    text and the configuration does not say to skip them, or when nothing is left.
    """
    folder = corpus / "documents"
    embedder = config.embedder
    counter = open_token_counter(embedder.ref())
    writer = _Writer(Chunker(config.chunking.size_tokens, config.chunking.overlap_tokens, counter))
    files = _files_to_read(folder)
    (out / "chunks").mkdir()
    with (
        (out / "chunks" / "chunks.jsonl").open("w", encoding="utf-8") as chunk_file,
        (out / "chunks" / "documents.jsonl").open("w", encoding="utf-8") as document_file,
        observe.progress("read", total=len(files), unit="files") as bar,
        closing(read_files([(path, path.relative_to(folder).as_posix()) for path in files])) as documents_by_file,
    ):
        for documents in documents_by_file:
            for item in documents:
                row = writer.write(item, chunk_file)
                document_file.write(to_json(row) + "\n")
                bar.advance(0, chunks=int(writer.totals["n_chunks"]))
            bar.advance(1)
    _report_unreadable(writer.unreadable, fail=config.unreadable == "fail")
    if not writer.totals["n_chunks"]:
        raise InputError("no readable document in corpus", todo="check corpus.paths")
    return writer.totals


class _Writer:
    """Writes one document after the other, and keeps count."""

    def __init__(self, chunker: Chunker) -> None:
        self.unreadable: list[Unreadable] = []
        self.totals: dict[str, float] = dict.fromkeys(
            ("n_documents", "n_skipped", "n_pages", "n_chunks", "n_tokens"), 0
        )
        self._chunker = chunker
        self._names: set[str] = set()

    def write(self, item: Document | Unreadable, chunk_file: TextIO) -> DocumentRow:
        """Write the document's chunks; returns its row."""
        item = replace(item, name=self._new_name(item.name))
        if isinstance(item, Unreadable):
            self.unreadable.append(item)
            self.totals["n_skipped"] += 1
            return DocumentRow(item.name, "skipped", item.reason, n_pages=0, n_characters=0, n_chunks=0)
        n_chunks = 0
        for chunk in self._chunker.cut(item):
            chunk_file.write(to_json(chunk) + "\n")
            n_chunks += 1
            self.totals["n_tokens"] += chunk.n_tokens
        self.totals["n_documents"] += 1
        self.totals["n_pages"] += len(item.pages)
        self.totals["n_chunks"] += n_chunks
        return DocumentRow(item.name, "read", "", len(item.pages), len(item.text), n_chunks)

    def _new_name(self, name: str) -> str:
        """Two records of a JSON file may carry the same id; chunk ids must not."""
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}~{count}"
        self._names.add(candidate)
        return candidate


def _files_to_read(folder: Path) -> list[Path]:
    known, unknown = list_files(folder)
    if unknown:
        names = _first([path.relative_to(folder).as_posix() for path in unknown])
        observe.warn(f"{len(unknown)} files of an unknown kind are left out: {names}")
    if not known:
        raise InputError(
            "no readable document in corpus",
            todo=f"corpus.paths must lead to files ending in {', '.join(sorted(KNOWN_SUFFIXES))}",
        )
    return known


def _report_unreadable(unreadable: Sequence[Unreadable], *, fail: bool) -> None:
    if not unreadable:
        return
    if not fail:
        for item in unreadable[:SHOWN]:
            observe.warn(f"skipped {item.name}: {item.reason}", remedy=item.remedy)
        if len(unreadable) > SHOWN:
            observe.warn(
                f"skipped {len(unreadable) - SHOWN} more documents that give no text; documents.jsonl names them"
            )
        return
    skip = "or leave such documents out with corpus.unreadable: skip"
    if len(unreadable) == 1:
        item = unreadable[0]
        raise InputError(item.reason, where=item.name, todo=f"{item.remedy}; {skip}")
    lines = [f"{item.name}: {item.reason} ({item.remedy})" for item in unreadable[:SHOWN]]
    if len(unreadable) > SHOWN:
        lines.append(f"and {len(unreadable) - SHOWN} more")
    raise InputError(
        "\n  ".join([f"{len(unreadable)} documents give no text:", *lines]), todo=f"repair or remove them, {skip}"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
