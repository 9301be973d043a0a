"""From files to documents: every format gives clean text in pages, or says why it gives none."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from radit_job.rag.cleaning import clean_characters, tidy_whitespace
from radit_job.rag.json_documents import Record, read_json_documents, read_jsonl_documents
from radit_job.rag.unreadable import UnreadableError

PDF = frozenset({".pdf"})
PLAIN = frozenset({".txt", ".text"})
MARKDOWN = frozenset({".md", ".markdown"})
HTML = frozenset({".html", ".htm", ".xhtml"})
JSON = frozenset({".json"})
JSONL = frozenset({".jsonl", ".ndjson"})
KNOWN_SUFFIXES = PDF | PLAIN | MARKDOWN | HTML | JSON | JSONL

PAGE_SEPARATOR = "\n\n"
PROBE_BYTES = 65_536
MAX_CONTROL_SHARE = 0.02  # of the bytes; more of them is no text


@dataclass(frozen=True, slots=True)
class Document:
    """One document's clean text."""

    name: str
    pages: tuple[str, ...]  # one for formats without pages
    has_pages: bool

    @property
    def text(self) -> str:
        """The whole text; chunks carry offsets into it."""
        return PAGE_SEPARATOR.join(self.pages)

    def page_starts(self) -> list[int]:
        """Offset of each page's first character in `text`."""
        lengths = (len(page) + len(PAGE_SEPARATOR) for page in self.pages[:-1])
        return list(accumulate(lengths, initial=0))


def page_at(page_starts: list[int], offset: int) -> int:
    """The 1-based page on which a character stands; an empty page never holds one."""
    return bisect_right(page_starts, offset)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that gives no text."""

    name: str
    reason: str
    remedy: str


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """(files of a known format, other files) below a folder, sorted by name; hidden files count as absent."""
    known: list[Path] = []
    unknown: list[Path] = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            (known if path.suffix.lower() in KNOWN_SUFFIXES else unknown).append(path)
    return known, unknown


def read_documents(path: Path, name: str) -> Iterator[Document | Unreadable]:
    """Every document of one file, one at a time; `name` is the file's name, records inside it add to it.

    Never raises for a bad document: it comes as Unreadable, in its place.
    """
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise UnreadableError("empty: 0 bytes", "remove it or get it again")
        if suffix in PDF:
            yield _read_pdf(path, name)
            return
        _require_text(path)
        if suffix in JSON | JSONL:
            records = read_json_documents(path) if suffix in JSON else read_jsonl_documents(path)
            yield from (_from_record(record, name) for record in records)
        else:
            yield _document(name, _to_plain(path.read_text(encoding="utf-8-sig"), suffix))
    except UnreadableError as error:
        yield Unreadable(name, error.reason, error.remedy)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{error.object[error.start]:02x} after {error.start} good ones"
        yield Unreadable(name, reason, "convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT")
    except OSError as error:
        yield Unreadable(name, f"cannot be opened: {error.strerror}", "check the file and its permissions")


def _require_text(path: Path) -> None:
    with path.open("rb") as file:
        block = file.read(PROBE_BYTES)
    n_controls = sum(block.count(code) for code in range(32) if code not in b"\t\n\r\f\v\x1b")
    if b"\0" in block or n_controls > MAX_CONTROL_SHARE * len(block):
        raise UnreadableError("binary, whatever its name says", "remove it, or give it its true ending")


def _read_pdf(path: Path, name: str) -> Document:
    import radit_job.rag.pymupdf_alone  # noqa: F401  # a corpus without PDFs does not load PyMuPDF
    from radit_job.rag.pdf import read_pdf

    return Document(name, tuple(read_pdf(path)), has_pages=True)


def _to_plain(source: str, suffix: str) -> str:
    if suffix in PLAIN:
        return source
    from radit_job.rag.markup import text_of_html, text_of_markdown

    return text_of_html(source) if suffix in HTML else text_of_markdown(source)


def _document(name: str, source: str) -> Document:
    text = tidy_whitespace(clean_characters(source))
    if not text:
        raise UnreadableError("holds no text", "remove it")
    return Document(name, (text,), has_pages=False)


def _from_record(record: Record, name: str) -> Document | Unreadable:
    full_name = name + record.name
    try:
        if record.text is None:
            raise record.problem or UnreadableError("has no text", "remove it")
        return _document(full_name, record.text)
    except UnreadableError as error:
        return Unreadable(full_name, error.reason, error.remedy)
