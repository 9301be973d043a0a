"""Markdown and HTML to plain text that keeps the structure a reader sees: headings, lists, tables, code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bs4 import BeautifulSoup, Comment, Declaration, Doctype, NavigableString, ProcessingInstruction, Tag
from markdown_it import MarkdownIt
from markdown_it.token import Token

DROPPED_TAGS = ("script", "style", "nav", "noscript", "template", "svg", "iframe", "button", "select", "input", "head")
_INVISIBLE_NODES = (Comment, Declaration, Doctype, ProcessingInstruction)
_PARAGRAPH_TAGS = frozenset(
    {"blockquote", "dl", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table", "ul"}
)
_BLOCK_TAGS = _PARAGRAPH_TAGS | {
    *(
        "address",
        "article",
        "aside",
        "body",
        "caption",
        "dd",
        "details",
        "div",
        "dt",
        "fieldset",
        "figcaption",
        "footer",
    ),
    *("form", "header", "hr", "html", "li", "main", "summary", "tbody", "tfoot", "thead", "tr"),
}
_FRONT_MATTER = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)


def text_of_html(markup: str | bytes) -> str:
    """The text of a page, without its scripts, styles and navigation; headings and lists in Markdown's signs."""
    soup = BeautifulSoup(markup, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for tag in soup.find_all(DROPPED_TAGS):
        tag.decompose()
    pieces: list[str] = []
    _walk_html(soup, pieces, preformatted=False)
    text = re.sub(r" *\n *", "\n", "".join(pieces)) if not soup.pre else "".join(pieces)
    if title and title not in text[: 4 * len(title) + 100]:
        text = f"# {title}\n\n{text}"
    return text


def _walk_html(node: Tag, pieces: list[str], *, preformatted: bool) -> None:
    for child in node.children:
        if isinstance(child, Tag):
            _walk_tag(child, pieces, preformatted=preformatted)
        elif isinstance(child, NavigableString) and not isinstance(child, _INVISIBLE_NODES):
            pieces.append(str(child) if preformatted else re.sub(r"\s+", " ", str(child)))


def _walk_tag(tag: Tag, pieces: list[str], *, preformatted: bool) -> None:
    if tag.name == "br":
        pieces.append("\n")
        return
    if tag.name in ("td", "th"):
        if tag.find_previous_sibling(("td", "th")):
            pieces.append(" | ")
        _walk_html(tag, pieces, preformatted=preformatted)
        return
    is_block = tag.name in _BLOCK_TAGS
    if is_block:
        pieces.append("\n\n" if tag.name in _PARAGRAPH_TAGS else "\n")
    if re.fullmatch(r"h[1-6]", tag.name):
        pieces.append("#" * int(tag.name[1]) + " ")
    elif tag.name == "li":
        pieces.append("- ")
    _walk_html(tag, pieces, preformatted=preformatted or tag.name == "pre")
    if is_block:
        pieces.append("\n\n" if tag.name in _PARAGRAPH_TAGS else "\n")


def text_of_markdown(source: str) -> str:
    """A Markdown file's text: links and emphasis lose their signs; headings, lists, tables and code keep theirs."""
    writer = _MarkdownText()
    for token in MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", source)):
        writer.take(token)
    return "\n".join(writer.lines)


class _MarkdownText:
    """Collects the lines of a stream of markdown-it's tokens."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._open_lists: list[int | None] = []  # the next number of each open list; None for bullets
        self._prefix = ""  # of the next inline text: a heading's or an item's sign
        self._cells: list[str] | None = None  # of the open table row

    def take(self, token: Token) -> None:
        """The next token."""
        match token.type:
            case "inline":
                self._take_inline(_inline_text(token.children or ()))
            case "fence" | "code_block":
                self.lines += [token.content.rstrip("\n"), ""]
            case "html_block":
                self.lines += [text_of_html(token.content).strip(), ""]
            case "tr_open":
                self._cells = []
            case "tr_close":
                self.lines.append(" | ".join(self._cells or ()))
                self._cells = None
            case "paragraph_close" | "heading_close" | "table_close":
                if not token.hidden:  # a tight list's items stay together
                    self.lines.append("")
            case _:
                self._take_opening(token)

    def _take_opening(self, token: Token) -> None:
        match token.type:
            case "heading_open":
                self._prefix = "#" * int(token.tag[1]) + " "
            case "bullet_list_open":
                self._open_lists.append(None)
            case "ordered_list_open":
                self._open_lists.append(int(token.attrGet("start") or 1))
            case "bullet_list_close" | "ordered_list_close":
                self._open_lists.pop()
                self.lines.append("")
            case "list_item_open":
                self._prefix = self._item_sign()

    def _take_inline(self, text: str) -> None:
        if self._cells is not None:
            self._cells.append(text)
        else:
            self.lines.append(self._prefix + text)
        self._prefix = ""

    def _item_sign(self) -> str:
        indent = "  " * (len(self._open_lists) - 1)
        number = self._open_lists[-1]
        if number is None:
            return f"{indent}- "
        self._open_lists[-1] = number + 1
        return f"{indent}{number}. "


def _inline_text(children: Sequence[Token]) -> str:
    pieces: list[Any] = []
    for child in children:
        if child.type in ("text", "code_inline", "text_special"):
            pieces.append(child.content)
        elif child.type == "image":
            pieces.append(_inline_text(child.children or ()))
        elif child.type == "softbreak":
            pieces.append(" ")
        elif child.type == "hardbreak":
            pieces.append("\n")
    return "".join(pieces)
