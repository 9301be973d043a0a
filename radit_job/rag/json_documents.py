"""Documents inside JSON and JSONL files: rows with a text, LlamaIndex documents, SQuAD's paragraphs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radit_job.rag.unreadable import UnreadableError

TEXT_KEYS = ("text", "content", "page_content", "contents", "body", "context")
NAME_KEYS = ("id", "id_", "doc_id", "document_id", "_id", "name", "title")
LIST_KEYS = ("documents", "docs", "data", "records", "rows", "nodes")
REMEDY = "give rows with a text (and an id), LlamaIndex documents, or SQuAD's form"


@dataclass(frozen=True, slots=True)
class Record:
    """One document inside a JSON file; exactly one of text and problem is set."""

    name: str  # what follows the file's own name: "#12", or "/Title#3" in SQuAD's form
    text: str | None
    problem: UnreadableError | None = None


def read_json_documents(path: Path) -> Iterator[Record]:
    """Every document of a JSON file; a file of one object per line is read as JSONL, whatever it is called.

    Raises UnreadableError for a file that is no JSON, or that holds no document.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from read_jsonl_documents(path)
            return
        raise UnreadableError(f"line {error.lineno} is not JSON: {error.msg}", "repair the line") from error
    if _is_squad(content):
        yield from _squad_records(content["data"])
    else:
        yield from _records(_list_of(content))


def read_jsonl_documents(path: Path) -> Iterator[Record]:
    """One document per line, streamed; a broken line gives a Record with its problem, and the others are read."""
    with path.open(encoding="utf-8-sig") as file:
        for index, line in enumerate(file):
            if not line.strip():
                continue
            try:
                yield _record(json.loads(line), index)
            except json.JSONDecodeError as error:
                problem = UnreadableError(f"line {index + 1} is not JSON: {error.msg}", "repair or delete the line")
                yield Record(f":{index + 1}", None, problem)


def _is_squad(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("data"), list)
        and any(isinstance(article, dict) and "paragraphs" in article for article in content["data"])
    )


def _squad_records(articles: Iterable[Any]) -> Iterator[Record]:
    """Only the contexts: the questions and answers beside them are not what a reader of the corpus would find."""
    for article_index, article in enumerate(articles):
        title = (isinstance(article, dict) and article.get("title")) or str(article_index)
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield Record(f"/{title}", None, UnreadableError("is no article with paragraphs", REMEDY))
            continue
        for index, paragraph in enumerate(paragraphs):
            yield _text_record(f"/{title}#{index}", paragraph.get("context") if isinstance(paragraph, dict) else None)


def _list_of(content: Any) -> Iterable[tuple[Any, Any]]:
    """(id or position, row) of every row in the content."""
    if isinstance(content, list):
        return enumerate(content)
    if isinstance(content, dict):
        if _text_of(content) is not None:
            return [(0, content)]
        for key in LIST_KEYS:
            if isinstance(content.get(key), list):
                return enumerate(content[key])
        rows = content.get("docstore/data", content)  # LlamaIndex's persisted document store
        if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
            return rows.items()
    raise UnreadableError("JSON without documents", REMEDY)


def _records(rows: Iterable[tuple[Any, Any]]) -> Iterator[Record]:
    is_empty = True
    for position, row in rows:
        is_empty = False
        yield _record(row, position)
    if is_empty:
        raise UnreadableError("holds no document", REMEDY)


def _record(row: Any, position: Any) -> Record:
    if isinstance(row, str):
        return _text_record(f"#{position}", row)
    if not isinstance(row, dict):
        return _text_record(f"#{position}", None)
    inner = row.get("__data__", row)  # LlamaIndex keeps a node there, as an object or as a string
    if isinstance(inner, str):
        try:
            inner = json.loads(inner)
        except json.JSONDecodeError as error:
            problem = UnreadableError(f"its __data__ is not JSON: {error.msg}", "write the document store again")
            return Record(f"#{position}", None, problem)
    if not isinstance(inner, dict):
        return _text_record(f"#{position}", None)
    name = next(
        (inner[key] for key in NAME_KEYS if isinstance(inner.get(key), str | int) and inner[key] != ""), position
    )
    return _text_record(f"#{name}", _text_of(inner))


def _text_record(name: str, text: Any) -> Record:
    if isinstance(text, str) and text.strip():
        return Record(name, text)
    return Record(name, None, UnreadableError("has no text", REMEDY))


def _text_of(row: dict[str, Any]) -> str | None:
    resource = row.get("text_resource")  # LlamaIndex 0.12 and later
    if isinstance(resource, dict) and isinstance(resource.get("text"), str):
        return str(resource["text"])
    for key in TEXT_KEYS:
        if isinstance(row.get(key), str):
            return str(row[key])
    if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        return f"{row['question']}\n{row['answer']}"  # an entry of frequently asked questions
    return None
