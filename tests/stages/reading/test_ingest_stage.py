"""ingest on a small corpus of every format."""

import json

import pymupdf
import pytest

from radit_job.config.slices import IngestSlice
from radit_job.errors import InputError
from radit_job.rag.documents import read_documents
from radit_job.records import Chunk, DocumentRow, read_rows
from radit_job.stages import ingest

TEXT = "The turbine of hall {} is inspected every ninety days by two engineers of the plant. "


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus" / "documents"
    (folder / "notes").mkdir(parents=True)
    with pymupdf.open() as document:
        for number in range(3):
            page = document.new_page()
            for line in range(20):
                page.insert_text((72, 100 + 14 * line), TEXT.format(f"{number}-{line}"), fontsize=9)
        document.save(folder / "plant.pdf")
    (folder / "notes" / "a.md").write_text("# Rules\n\n" + TEXT.format("A"))
    (folder / "b.html").write_text(f"<p>{TEXT.format('B')}</p>")
    (folder / "c.jsonl").write_text(
        "".join(json.dumps({"id": number % 2, "text": TEXT.format(number)}) + "\n" for number in range(3))
    )
    return tmp_path / "corpus"


def run(corpus, out, unreadable="fail"):
    out.mkdir()
    config = IngestSlice(
        unreadable=unreadable, chunking={"size_tokens": 48, "overlap_tokens": 8}, embedder={"name": "all-minilm-l6-v2"}
    )
    counters = ingest.run(config, corpus=corpus, out=out, scratch=out)
    return (
        counters,
        list(read_rows(out / "chunks" / "chunks.jsonl", Chunk)),
        list(read_rows(out / "chunks" / "documents.jsonl", DocumentRow)),
    )


def test_chunks_of_every_format(corpus, tmp_path):
    counters, chunks, documents = run(corpus, tmp_path / "out")
    assert [row.document for row in documents] == [
        "b.html",
        "c.jsonl#0",
        "c.jsonl#1",
        "c.jsonl#0~2",
        "notes/a.md",
        "plant.pdf",
    ]
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks) == counters["n_chunks"]
    assert {chunk.page for chunk in chunks if chunk.document == "plant.pdf"} == {1, 2, 3}
    assert {chunk.page for chunk in chunks if chunk.document != "plant.pdf"} == {None}
    assert counters["n_tokens"] == sum(chunk.n_tokens for chunk in chunks)
    assert (counters["n_documents"], counters["n_skipped"], counters["n_pages"]) == (6, 0, 8)


def test_offsets_lead_into_the_clean_text(corpus, tmp_path):
    _, chunks, _ = run(corpus, tmp_path / "out")
    (document,) = read_documents(corpus / "documents" / "plant.pdf", "plant.pdf")
    own = [chunk for chunk in chunks if chunk.document == "plant.pdf"]
    assert len(own) > 3
    assert all(document.text[chunk.start_char : chunk.end_char] == chunk.text for chunk in own)


def test_the_same_corpus_gives_the_same_bytes(corpus, tmp_path):
    run(corpus, tmp_path / "one")
    run(corpus, tmp_path / "two")
    for name in ("chunks.jsonl", "documents.jsonl"):
        assert (tmp_path / "one" / "chunks" / name).read_bytes() == (tmp_path / "two" / "chunks" / name).read_bytes()


def test_all_unreadable_documents_are_named_in_one_error(corpus, tmp_path):
    (corpus / "documents" / "zero.pdf").write_bytes(b"")
    (corpus / "documents" / "binary.txt").write_bytes(bytes(range(256)))
    with pytest.raises(InputError) as caught:
        run(corpus, tmp_path / "out")
    message = str(caught.value)
    assert "zero.pdf" in message
    assert "binary.txt" in message
    assert "corpus.unreadable: skip" in message
    assert caught.value.exit_code == 65


def test_one_unreadable_document_is_the_errors_place(corpus, tmp_path):
    (corpus / "documents" / "zero.pdf").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        run(corpus, tmp_path / "out")
    assert caught.value.where == "zero.pdf"


def test_skipping_names_the_document_and_goes_on(corpus, tmp_path, events):
    (corpus / "documents" / "zero.pdf").write_bytes(b"")
    counters, chunks, documents = run(corpus, tmp_path / "out", unreadable="skip")
    (skipped,) = [row for row in documents if row.status == "skipped"]
    assert (skipped.document, skipped.n_chunks) == ("zero.pdf", 0)
    assert "0 bytes" in skipped.reason
    assert counters["n_skipped"] == 1
    assert chunks
    assert any("zero.pdf" in event.get("message", "") for event in events)


def test_files_of_unknown_kinds_are_named(corpus, tmp_path, events):
    (corpus / "documents" / "sheet.xlsx").write_bytes(b"x")
    run(corpus, tmp_path / "out")
    assert any("sheet.xlsx" in event.get("message", "") for event in events)


@pytest.mark.parametrize("only", [None, "sheet.xlsx", "zero.pdf"])
def test_a_corpus_without_a_readable_document_is_an_error(tmp_path, only):
    folder = tmp_path / "corpus" / "documents"
    folder.mkdir(parents=True)
    if only:
        (folder / only).write_bytes(b"")
    with pytest.raises(InputError, match="no readable document"):
        run(tmp_path / "corpus", tmp_path / "out", unreadable="skip")
