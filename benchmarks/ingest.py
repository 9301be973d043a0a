"""PDF pages to chunks, beside PyMuPDF with LlamaIndex: `python benchmarks/ingest.py [--pages 500] [--document FILE]`.

The peer is what people write: PyMuPDF's get_text of each page, a Document per page, SentenceSplitter with the
encoder's own tokenizer, in one process. Ours is the stage `ingest`: it also cleans the text (running headers, broken
words), notes where each chunk stands, and writes them. So the texts differ, and the second pair starts from the same
text, ours: SentenceSplitter beside our Chunker, whose chunks are compared one by one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import EMBEDDER, QUICKSTART, Compared, Timer, alternate, compare, options, passed_on, show

PEER = "PyMuPDF + SentenceSplitter"
SAME_TEXT_PEER = "SentenceSplitter, our text"
WAYS = (PEER, "radit-job ingest", SAME_TEXT_PEER, "radit-job Chunker, our text")
PAGES_PER_FILE = 50


def write_files(document: Path, n_pages: int, folder: Path) -> None:
    """The document's pages again and again, in files of 50; beginning elsewhere in each, so that no two are equal."""
    import pymupdf

    with pymupdf.open(document) as source:
        last = source.page_count - 1
        for number, start in enumerate(range(0, n_pages, PAGES_PER_FILE)):
            wanted = min(PAGES_PER_FILE, n_pages - start)
            with pymupdf.open() as target:
                target.insert_pdf(source, from_page=number % (last + 1), to_page=last)
                while target.page_count < wanted:
                    target.insert_pdf(source)
                target.delete_pages(range(wanted, target.page_count)) if target.page_count > wanted else None
                target.save(folder / f"{number:03d}.pdf", deflate=True)


def llamaindex_splitter(args: argparse.Namespace) -> Any:
    from functools import partial

    from llama_index.core.node_parser import SentenceSplitter
    from transformers import AutoTokenizer

    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder(ModelRef("packaged", EMBEDDER)))
    encode = partial(tokenizer.encode, add_special_tokens=False)
    return SentenceSplitter(chunk_size=args.chunk_tokens, chunk_overlap=args.chunk_tokens // 8, tokenizer=encode)


def pymupdf_and_llamaindex(args: argparse.Namespace) -> None:
    import pymupdf
    from llama_index.core import Document

    splitter = llamaindex_splitter(args)
    splitter.split_text("The first time loads nltk. So does ours.")
    with Timer() as timer:
        pages = []
        for path in sorted(args.corpus.glob("*.pdf")):
            with pymupdf.open(path) as document:
                pages += [Document(text=page.get_text(), metadata={}) for page in document]
        nodes = splitter.get_nodes_from_documents(pages)
    timer.print(n_pages=len(pages), n_chunks=len(nodes))


def stage(args: argparse.Namespace) -> None:
    from radit_job.config.models import Model
    from radit_job.config.schema import Chunking
    from radit_job.config.slices import IngestSlice
    from radit_job.rag.sentences import split_sentences
    from radit_job.stages import ingest

    chunking = Chunking(size_tokens=args.chunk_tokens, overlap_tokens=args.chunk_tokens // 8)
    config = IngestSlice(unreadable="fail", chunking=chunking, embedder=Model(provider="packaged", name=EMBEDDER))
    split_sentences("The first time loads nltk. So does the peer's.")
    with tempfile.TemporaryDirectory() as folder:
        out, corpus, scratch = (Path(folder, name) for name in ("out", "corpus", "scratch"))
        for path in (out, corpus, scratch):
            path.mkdir()
        (corpus / "documents").symlink_to(args.corpus.resolve())
        with Timer() as timer:
            totals = ingest.run(config, corpus=corpus, out=out, scratch=scratch)
    timer.print(n_pages=int(totals["n_pages"]), n_chunks=int(totals["n_chunks"]))


def same_text(args: argparse.Namespace) -> None:
    """Both from the text that the stage cuts."""
    from radit_job.model_ref import ModelRef
    from radit_job.models.token_counter import open_token_counter
    from radit_job.rag.chunking import Chunker
    from radit_job.rag.documents import read_documents

    documents = [item for path in sorted(args.corpus.glob("*.pdf")) for item in read_documents(path, path.name)]
    n_pages = sum(len(document.pages) for document in documents)
    if args.only == SAME_TEXT_PEER:
        splitter = llamaindex_splitter(args)
        with Timer() as timer:
            cut = [splitter.split_text(document.text) for document in documents]
    else:
        chunker = Chunker(args.chunk_tokens, args.chunk_tokens // 8, open_token_counter(ModelRef("packaged", EMBEDDER)))
        with Timer() as timer:
            cut = [[chunk.text for chunk in chunker.cut(document)] for document in documents]
    timer.print(cut, n_pages=n_pages, n_chunks=sum(map(len, cut)))


def says(row: Compared, rows: list[Compared]) -> str:
    said = f"{row.facts['n_pages']} pages, {row.facts['n_chunks']} chunks"
    if row.check is None:
        same = next((other for other in rows if other.way == WAYS[3]), None)
        return f"{said}; {says(same, rows)}" if same and row.way == WAYS[1] else said
    peer = next(other for other in rows if other.way == SAME_TEXT_PEER)
    pairs = zip(row.check, peer.check, strict=True)
    n_equal = sum(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=False))
    return f"from the same text {n_equal} of {peer.facts['n_chunks']} chunks equal"


def main() -> None:
    parser = options(__doc__, WAYS)
    parser.add_argument("--document", type=Path, default=QUICKSTART / "handbook.pdf", help="a PDF")
    parser.add_argument("--pages", type=int, default=500)
    parser.add_argument("--chunk-tokens", type=int, default=254)
    parser.add_argument("--corpus", type=Path, help="a folder of PDF files in place of --document and --pages")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.corpus is None:
            args.corpus = Path(folder)
            write_files(args.document, args.pages, args.corpus)
        if args.only:
            os.environ["OMP_NUM_THREADS"] = str(args.threads)
            {PEER: pymupdf_and_llamaindex, WAYS[1]: stage}.get(args.only, same_text)(args)
            return
        more = passed_on(args, ("chunk_tokens", "corpus"))
        found = alternate(__file__, args.ways, args.rounds, args.threads, more)
        rows = []
        for pair in (WAYS[:2], WAYS[2:]):
            if pair[0] in found:
                rows += compare({way: found[way] for way in pair if way in found}, pair[0])
        show(rows, lambda row: says(row, rows), as_json=args.json)


if __name__ == "__main__":
    main()
