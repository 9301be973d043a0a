"""Render handbook.md to handbook.pdf: `python examples/quickstart/render.py`.

The same Markdown gives the same bytes: the PDF holds no dates and no random identifiers.
"""

from __future__ import annotations

import argparse
import html
import io
import re
from pathlib import Path

import pymupdf
from markdown_it import MarkdownIt

FOLDER = Path(__file__).parent
PAGE = pymupdf.paper_rect("a4")  # 595 x 842 pt
BODY = pymupdf.Rect(68, 64, PAGE.width - 68, PAGE.height - 72)  # the text's place on a page; the footer lies below it
FOOTER_BASELINE_PT = PAGE.height - 40
ROOM_PT = {"2": 110, "3": 62}  # a chapter or section with less room than this on a page starts on the next
GREY = (0.45, 0.45, 0.45)

CSS = """
body { font-family: serif; font-size: 10.5px; line-height: 1.4; color: #1a1a1a; }
h1 { font-family: sans-serif; font-size: 27px; margin: 88px 0 6px 0; color: #17324d; }
h2 { font-family: sans-serif; font-size: 16px; margin: 26px 0 8px 0; color: #17324d; }
h3 { font-family: sans-serif; font-size: 11.5px; margin: 15px 0 4px 0; color: #17324d; }
p { margin: 0 0 7px 0; }
p.subtitle { font-size: 12px; margin: 0 0 44px 0; color: #555555; }
p.contents { margin: 0 0 5px 0; color: #17324d; }
ul { margin: 0 0 9px 0; padding-left: 18px; }
li { margin: 0 0 4px 0; }
code { font-family: monospace; font-size: 9.6px; }
td code { white-space: nowrap; }
pre { font-family: monospace; font-size: 9.2px; line-height: 1.35; margin: 4px 0 10px 14px; color: #17324d; }
table { margin: 4px 0 12px 0; }
th { font-family: sans-serif; font-size: 9.6px; text-align: left; padding: 3px 22px 3px 0; color: #17324d; }
td { padding: 2px 22px 2px 0; }
"""


def render(markdown: str) -> bytes:
    """The handbook as a PDF's bytes: title and contents on the first page, then the chapters."""
    head, _, body = markdown.partition("\n## ")
    title, subtitle = (line for line in head.removeprefix("# ").splitlines() if line)
    chapters = MarkdownIt("commonmark").enable("table").render("## " + body)
    blocks = re.split(r"(?=<h2>)|(?<!</h2>\n)(?=<h3>)", chapters)[1:]
    pages, page_of_block = _lay_out(blocks)
    contents = [
        (html.unescape(match[1]), page + 2)  # counted from 1, behind the title page
        for block, page in zip(blocks, page_of_block, strict=True)
        if (match := re.match("<h2>(.*?)</h2>", block))
    ]
    document, _ = _lay_out([_title_page(title, subtitle, contents)])
    document.insert_pdf(pages)
    for heading, page in contents:
        for place in document[0].search_for(heading, flags=0):
            document[0].insert_link({"kind": pymupdf.LINK_GOTO, "from": place, "page": page - 1})
    document.set_toc([[1, heading, page] for heading, page in contents])
    for number in range(2, len(document) + 1):
        where = (PAGE.width / 2 - 4, FOOTER_BASELINE_PT)
        document[number - 1].insert_text(where, str(number), fontsize=9, fontname="helv", color=GREY)
    document.set_metadata({"title": title, "subject": subtitle, "author": "the radit-job project"})
    pdf: bytes = document.tobytes(garbage=4, deflate=True, deflate_fonts=True, no_new_id=True)
    return pdf


def _title_page(title: str, subtitle: str, contents: list[tuple[str, int]]) -> str:
    lines = "".join(f'<p class="contents">{html.escape(name)} &#160;&#160; {page}</p>' for name, page in contents)
    return f'<h1>{html.escape(title)}</h1><p class="subtitle">{html.escape(subtitle)}</p>{lines}'


def _lay_out(blocks: list[str]) -> tuple[pymupdf.Document, list[int]]:
    """Pages with the blocks one below the other, and the page (from 0) on which each begins.

    A block is a heading with its text. Each is a Story of its own: the engine knows no "keep with next", and would
    leave headings alone at the foot of a page.
    """
    buffer = io.BytesIO()
    writer = pymupdf.DocumentWriter(buffer)
    device = writer.begin_page(PAGE)
    top, page, page_of_block = BODY.y0, 0, []
    for block in blocks:
        story = pymupdf.Story(block, user_css=CSS)
        is_unfinished = True
        if BODY.y1 - top < ROOM_PT.get(block[2], 0):
            writer.end_page()
            device, top, page = writer.begin_page(PAGE), BODY.y0, page + 1
        page_of_block.append(page)
        while is_unfinished:
            is_unfinished, filled = story.place(pymupdf.Rect(BODY.x0, top, BODY.x1, BODY.y1))
            story.draw(device)
            top = filled[3]
            if is_unfinished:
                writer.end_page()
                device, top, page = writer.begin_page(PAGE), BODY.y0, page + 1
    writer.end_page()
    writer.close()
    return pymupdf.open("pdf", buffer.getvalue()), page_of_block


def main() -> None:
    """Write the PDF beside the Markdown, or where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER / "handbook.pdf")
    output: Path = parser.parse_args().output
    output.write_bytes(render((FOLDER / "handbook.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
