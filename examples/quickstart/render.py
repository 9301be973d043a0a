"""Render handbook.md to handbook.pdf: `python examples/quickstart/render.py`.

The same Markdown gives the same bytes: the PDF holds no dates and no random identifiers.
"""

from __future__ import annotations

import argparse
import html
import itertools
import re
from pathlib import Path
from typing import Any

import pymupdf
from markdown_it import MarkdownIt

FOLDER = Path(__file__).parent
PAGE = pymupdf.paper_rect("a4")  # 595 x 842 pt
BODY = pymupdf.Rect(68, 64, PAGE.width - 68, PAGE.height - 72)  # the text's place on a page; the footer lies below it
FOOTER_BASELINE_PT = PAGE.height - 40
LAST_HEADING_PT = BODY.y1 - 36  # a heading below this has no room for two lines of text under it
GREY = (0.45, 0.45, 0.45)

CSS = """
body { font-family: serif; font-size: 10.5px; line-height: 1.4; color: #1a1a1a; }
h1 { font-family: sans-serif; font-size: 27px; margin: 88px 0 6px 0; color: #17324d; }
h2 { font-family: sans-serif; font-size: 16px; margin: 26px 0 8px 0; color: #17324d; }
h3 { font-family: sans-serif; font-size: 11.5px; margin: 15px 0 4px 0; color: #17324d; }
p { margin: 0 0 7px 0; }
p.subtitle { font-size: 12px; margin: 0 0 44px 0; color: #555555; }
p.contents { margin: 0 0 5px 0; }
p.contents a { color: #17324d; text-decoration: none; }
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
    title, subtitle, chapters = _parts(markdown)
    headings = re.findall(r'<h2 id="(.+?)">(.*?)</h2>', chapters)
    page_of: dict[str, int] = {}  # heading's id -> page, once the chapters have been laid out
    on_next_page = {headings[0][0]}  # the first chapter, and headings that would stand alone at the foot of a page

    def content(positions: list[Any]) -> str:  # called until the positions no longer change
        page_of.update({position.id: position.page_num for position in positions if position.heading})
        stranded = (p.id for p in positions if p.heading in (2, 3) and p.rect[3] > LAST_HEADING_PT)
        on_next_page.update(itertools.islice((name for name in stranded if name not in on_next_page), 1))
        return _page_source(title, subtitle, headings, page_of, _break_before(chapters, on_next_page))

    document = pymupdf.Story.write_stabilized_with_links(
        content, lambda number, filled: (PAGE, BODY, None), user_css=CSS
    )
    document.set_toc([[1, html.unescape(heading).replace("\u00a0", ""), page_of[name]] for name, heading in headings])
    for number, page in enumerate(document, start=1):
        if number > 1:
            page.insert_text(
                (PAGE.width / 2 - 4, FOOTER_BASELINE_PT), str(number), fontsize=9, fontname="helv", color=GREY
            )
    document.set_metadata({"title": title, "subject": subtitle, "author": "the radit-job project"})
    pdf: bytes = document.tobytes(garbage=4, deflate=True, deflate_fonts=True, no_new_id=True)
    return pdf


def _parts(markdown: str) -> tuple[str, str, str]:
    """The title, the line below it, and the chapters as HTML, in which every heading has an id."""
    head, _, body = markdown.partition("\n## ")
    title, subtitle = (line for line in head.splitlines() if line)
    chapters = MarkdownIt("commonmark").enable("table").render("## " + body)
    numbers = itertools.count(1)
    chapters = re.sub(r"<h([23])>", lambda match: f'<h{match[1]} id="heading-{next(numbers)}">', chapters)
    return title.removeprefix("# "), subtitle, re.sub(r"(<h2 [^>]*>\d+) ", r"\1&#160; ", chapters)


def _page_source(
    title: str, subtitle: str, headings: list[tuple[str, str]], page_of: dict[str, int], chapters: str
) -> str:
    contents = "".join(
        f'<p class="contents"><a href="#{name}">{heading}</a> &#160;&#160; {page_of.get(name, 0)}</p>'
        for name, heading in headings
    )
    return f'<h1>{html.escape(title)}</h1><p class="subtitle">{html.escape(subtitle)}</p>{contents}{chapters}'


def _break_before(chapters: str, names: set[str]) -> str:
    """Start a new page at these headings; the layout engine itself knows no "keep with next"."""
    for name in names:
        chapters = chapters.replace(f'id="{name}">', f'id="{name}" style="page-break-before: always">')
    return chapters


def main() -> None:
    """Write the PDF beside the Markdown, or where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER / "handbook.pdf")
    output: Path = parser.parse_args().output
    output.write_bytes(render((FOLDER / "handbook.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
