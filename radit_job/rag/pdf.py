"""PDF to clean text, page by page, by PyMuPDF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymupdf

from radit_job import observe
from radit_job.rag.cleaning import (
    clean_characters,
    find_running_lines,
    join_broken_words,
    running_line_key,
    tidy_whitespace,
    words_of,
)
from radit_job.rag.unreadable import UnreadableError

TEXT_FLAGS = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
MARGIN_SHARE = 0.12  # headers and footers stand in this share of the page's height, at its top and bottom
FULL_ROW_SHARE = 0.85  # a row that ends further left than this share of its block ends a paragraph
TABLE_CELLS = 3  # so many pieces on one height make a table's row
MAX_UNMAPPED_SHARE = 0.3  # of characters that the font maps to nothing
START_MARK_BYTES = 1024  # where readers look for %PDF-
TRUNCATED = ("truncated: its end is missing", "get the whole file again")
END_MARK_BYTES = 2048  # where a complete file carries %%EOF
_SAME_PARAGRAPH = "\r"  # cleaning leaves no carriage return, so this one is a mark


@dataclass(slots=True)
class Row:
    """One line of print; a table's cells on one height are one row."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    n_cells: int = 1


@dataclass(frozen=True, slots=True)
class PageLayout:
    """One page's blocks in the order in which the file holds them, which is the reading order, columns included.

    PyMuPDF's `sort=True` would mix the lines of two columns.
    """

    blocks: tuple[tuple[Row, ...], ...]
    height: float
    has_images: bool


def read_pdf(path: Path) -> list[str]:
    """The clean text of every page, in order; a page without text gives an empty string.

    Raises UnreadableError for a file that is encrypted, truncated, scanned, or whose fonts do not say what they print.
    """
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    with _open(path) as document:
        layouts = [_read_layout(page) for page in document]
    _check_text(layouts, path)
    return _clean_pages(layouts)


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(START_MARK_BYTES):
            raise UnreadableError("not a PDF, whatever its name says", "get the file again, or give it its true ending")
    try:
        document = pymupdf.open(path, filetype="pdf")
    except Exception as error:  # PyMuPDF has no one exception for a file that it cannot open
        if _has_end_mark(path):
            raise UnreadableError("damaged: no page can be opened", "print it to a new PDF") from error
        raise UnreadableError(*TRUNCATED) from error
    if document.needs_pass:
        raise UnreadableError("encrypted", "save it without its password, for example: qpdf --decrypt IN OUT")
    if document.page_count == 0 or (document.is_repaired and not _has_end_mark(path)):
        raise UnreadableError(*TRUNCATED)
    return document


def _has_end_mark(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_MARK_BYTES))
        return b"%%EOF" in file.read()


def _read_layout(page: Any) -> PageLayout:
    content = page.get_text("dict", flags=TEXT_FLAGS)
    lines = [line for block in content["blocks"] for line in block.get("lines", ())]
    directions = Counter(_direction(line) for line in lines)
    upright = directions.most_common(1)[0][0] if directions else (1, 0)
    blocks = []
    for block in content["blocks"]:
        # Text that runs another way than the page is a margin stamp or an axis label.
        rows = _rows([line for line in block.get("lines", ()) if _direction(line) == upright])
        if rows:
            blocks.append(tuple(rows))
    has_images = not blocks and bool(page.get_images())
    return PageLayout(tuple(blocks), content["height"], has_images)


def _direction(line: dict[str, Any]) -> tuple[int, int]:
    return round(line["dir"][0]), round(line["dir"][1])


def _rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for line in lines:
        text = " ".join(clean_characters("".join(span["text"] for span in line["spans"])).split())
        if not text:
            continue
        left, top, right, bottom = line["bbox"]
        last = rows[-1] if rows else None
        if last and left >= last.right - 1 and min(bottom, last.bottom) - max(top, last.top) > 0.5 * (bottom - top):
            rows[-1] = Row(
                f"{last.text} {text}", last.left, right, min(top, last.top), max(bottom, last.bottom), last.n_cells + 1
            )
        else:
            rows.append(Row(text, left, right, top, bottom))
    return rows


def _check_text(layouts: Sequence[PageLayout], path: Path) -> None:
    text = "".join(row.text for layout in layouts for block in layout.blocks for row in block)
    empty = [number for number, layout in enumerate(layouts, start=1) if not layout.blocks]
    scanned = [number for number in empty if layouts[number - 1].has_images]
    if not text.strip():
        if scanned:
            raise UnreadableError("scanned: its pages are images without text", "run OCR, for example: ocrmypdf IN OUT")
        raise UnreadableError("no page holds text", "leave it out, or run OCR: ocrmypdf IN OUT")
    if text.count("\ufffd") > MAX_UNMAPPED_SHARE * len(text):
        raise UnreadableError(
            "its fonts do not map to characters", "run OCR over it, for example: ocrmypdf --force-ocr IN OUT"
        )
    if scanned:
        shown = ", ".join(map(str, scanned[:10])) + (", ..." if len(scanned) > 10 else "")
        observe.warn(f"{path.name}: {len(scanned)} of {len(layouts)} pages are images without text: {shown}")


def _clean_pages(layouts: Sequence[PageLayout]) -> list[str]:
    running = find_running_lines([{key for _, key in _margin_rows(layout)} for layout in layouts])
    pages = []
    for layout in layouts:
        dropped = {id(row) for row, key in _margin_rows(layout) if key in running}
        kept = [[row for row in block if id(row) not in dropped] for block in layout.blocks]
        pages.append([block for block in kept if block])
    return _reflow(pages)


def _margin_rows(layout: PageLayout) -> Iterator[tuple[Row, str]]:
    """Rows near the top or bottom edge, with their keys."""
    for block in layout.blocks:
        for row in block:
            if row.bottom < MARGIN_SHARE * layout.height or row.top > (1 - MARGIN_SHARE) * layout.height:
                yield row, running_line_key(row.text)


def _reflow(pages: Sequence[Sequence[Sequence[Row]]]) -> list[str]:
    """Rows to paragraphs: words broken at a row's end are joined, a paragraph's rows become one line."""
    known = words_of(["\n\n".join("\n".join(row.text for row in block) for block in blocks) for blocks in pages])
    texts = []
    for blocks in pages:
        following = [*blocks[1:], []][: len(blocks)]  # none on an empty page
        text = "".join(_paragraphs(block, after) for block, after in zip(blocks, following, strict=True))
        # _SAME_PARAGRAPH marks a full row's end; a word broken there is joined first.
        text = join_broken_words(text.replace("-" + _SAME_PARAGRAPH, "-\n"), known).replace(_SAME_PARAGRAPH, " ")
        texts.append(tidy_whitespace(text))
    return _join_words_across_pages(texts, known)


def _paragraphs(block: Sequence[Row], after: Sequence[Row]) -> str:
    """A block's rows, each with what separates it from the next: a paragraph's end, or nothing but the line's."""
    left, right = min(row.left for row in block), max(row.right for row in block)
    full = left + FULL_ROW_SHARE * (right - left)
    is_full = [row.right >= full and row.n_cells < TABLE_CELLS for row in block]
    ends = [_SAME_PARAGRAPH if row_is_full else "\n" for row_is_full in is_full]
    # A sentence often goes on in the next block: in the next column, or behind a figure.
    goes_on = (
        len(block) > 1 and is_full[-1] and after and block[-1].text[-1] not in ".:!?" and after[0].text[:2].islower()
    )
    ends[-1] = _SAME_PARAGRAPH if goes_on else "\n\n"
    return "".join(row.text + end for row, end in zip(block, ends, strict=True))


def _join_words_across_pages(texts: list[str], known: Counter[str]) -> list[str]:
    """A word that a page's end breaks goes whole to the page on which it begins."""
    for index in range(len(texts) - 1):
        head, tail = texts[index], texts[index + 1]
        if head.endswith("-") and tail[:1].islower():
            rest = tail.split(maxsplit=1)
            last_line = head.rsplit(None, 1)
            word = join_broken_words(f"{last_line[-1]}\n{rest[0]}", known)
            texts[index] = head[: len(head) - len(last_line[-1])] + word
            texts[index + 1] = rest[1] if len(rest) > 1 else ""
    return texts
