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
_BLOCK_TAGS = frozenset(
    "address article aside blockquote body caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr html li main ol p pre section summary table tbody tfoot thead tr ul".split()
)
_PARAGRAPH_TAGS = frozenset("blockquote dl figure h1 h2 h3 h4 h5 h6 ol p pre section table ul".split())
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
    """The text of a Markdown file: links and emphasis lose their signs, headings, lists, tables and code keep theirs."""
    tokens = MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", source))
    lines: list[str] = []
    open_lists: list[int | None] = []  # the next number of each open list; None for bullets
    prefix = ""
    cells: list[str] | None = None
    for token in tokens:
        match token.type:
            case "heading_open":
                prefix = "#" * int(token.tag[1]) + " "
            case "bullet_list_open" | "ordered_list_open":
                open_lists.append(int(token.attrGet("start") or 1) if token.type.startswith("ordered") else None)
            case "bullet_list_close" | "ordered_list_close":
                open_lists.pop()
                lines.append("")
            case "list_item_open":
                prefix = _list_prefix(open_lists)
            case "tr_open":
                cells = []
            case "tr_close":
                lines.append(" | ".join(cells or ()))
                cells = None
            case "inline":
                text = _inline_text(token.children or ())
                if cells is not None:
                    cells.append(text)
                else:
                    lines.append(prefix + text)
                prefix = ""
            case "paragraph_close" | "heading_close" | "table_close":
                if not token.hidden:  # a tight list's items stay together
                    lines.append("")
            case "fence" | "code_block":
                lines += [token.content.rstrip("\n"), ""]
            case "html_block":
                lines += [text_of_html(token.content).strip(), ""]
    return "\n".join(lines)


def _list_prefix(open_lists: list[int | None]) -> str:
    indent = "  " * (len(open_lists) - 1)
    number = open_lists[-1]
    if number is None:
        return f"{indent}- "
    open_lists[-1] = number + 1
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
