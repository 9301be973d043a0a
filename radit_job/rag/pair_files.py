"""Question/answer pairs from files: JSONL, LlamaIndex's two data sets, SQuAD. The form is recognised by its content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radit_job.errors import InputError

QUESTION_KEYS = ("question", "query", "prompt", "instruction")
ANSWER_KEYS = ("answer", "response", "reference_answer", "answers", "output", "completion")
CONTEXT_KEYS = ("context", "contexts", "reference_context", "reference_contexts")
CHUNK_KEYS = ("chunk_id", "chunk_ids")
DOCUMENT_KEYS = ("document", "document_id", "doc_id", "source_document")
ID_KEYS = ("question_id", "id")

KNOWN_FORMS = (
    "JSONL rows with question and answer, LlamaIndex QueryResponseDataset or LabelledRagDataset JSON, or SQuAD JSON"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One question/answer pair as its file gives it; question and answer may be empty."""

    question: str
    answer: str
    where: str  # file and line, or file and position
    pair_id: str | None = None
    contexts: tuple[str, ...] = ()  # reference texts that hold the answer
    answer_start: int | None = None  # offset of the answer in the first context
    document: str | None = None
    chunk_ids: tuple[str, ...] = ()
    is_unanswerable: bool = False  # asked on purpose though the text does not answer it, as in SQuAD 2.0


def read_pairs(path: Path) -> Iterator[Pair]:
    """Every pair of the file, in its order. InputError, with the line, for what is not JSON or no known form."""
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _jsonl_pairs(path)
            return
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error.reason}", where=path.name, todo=f"give {KNOWN_FORMS}") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object per line, under another name
            yield from _jsonl_pairs(path)
            return
        raise InputError(
            f"not JSON: {error.msg}", where=f"{path.name}:{error.lineno}", todo="repair the file"
        ) from error
    yield from _json_pairs(content, path.name)


def _jsonl_pairs(path: Path) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"not JSON: {error.msg}", where=where, todo="repair or delete the line") from error
            yield _row_pair(row, where)


def _json_pairs(content: Any, name: str) -> Iterator[Pair]:
    if isinstance(content, dict) and isinstance(content.get("queries"), dict) and "responses" in content:
        yield from _query_response_pairs(content, name)
        return
    rows = content
    if isinstance(content, dict):
        rows = content.get("examples", content.get("data"))  # LabelledRagDataset, SQuAD
        if rows is None and _first_of(content, QUESTION_KEYS) is not None:
            rows = [content]
    if not isinstance(rows, list):
        raise InputError("no question/answer pairs in a form we know", where=name, todo=f"give {KNOWN_FORMS}")
    if any(isinstance(row, dict) and "paragraphs" in row for row in rows):
        yield from _squad_pairs(rows, name)
    else:
        yield from (_row_pair(row, f"{name}: row {position}") for position, row in enumerate(rows, start=1))


def _row_pair(row: Any, where: str) -> Pair:
    """A JSONL row, or an example of a LabelledRagDataset: question, answer, and what says where the answer stands."""
    if not isinstance(row, dict):
        raise InputError("not an object with question and answer", where=where, todo=f"give {KNOWN_FORMS}")
    question = _first_of(row, QUESTION_KEYS)
    is_unanswerable = _says_unanswerable(row)
    if question is None or not (is_unanswerable or any(key in row for key in ANSWER_KEYS)):
        missing = "answer" if question is not None else "question"
        raise InputError(
            f"the row has no {missing} (its fields: {', '.join(row) or 'none'})",
            where=where,
            todo=f"give {KNOWN_FORMS}",
        )
    answer, answer_start = _answer_of(_first_of(row, ANSWER_KEYS))
    document = _first_of(row, DOCUMENT_KEYS)
    pair_id = _first_of(row, ID_KEYS)
    return Pair(
        question=_text(question),
        answer=answer,
        where=where,
        pair_id=None if pair_id is None else str(pair_id),
        contexts=_texts(_first_of(row, CONTEXT_KEYS)),
        answer_start=answer_start,
        document=None if document is None else str(document),
        chunk_ids=_texts(_first_of(row, CHUNK_KEYS)),
        is_unanswerable=is_unanswerable,
    )


def _says_unanswerable(row: dict[str, Any]) -> bool:
    """Whether a row's flag says so, or SQuAD 2.0's form on the hub, where the lists in `answers` are empty."""
    answers = row.get("answers")
    is_empty = isinstance(answers, dict) and answers.get("text") == []
    return row.get("answerable") is False or row.get("is_impossible") is True or is_empty


def _query_response_pairs(content: dict[str, Any], name: str) -> Iterator[Pair]:
    """LlamaIndex's QueryResponseDataset: {"queries": {id: question}, "responses": {id: answer}}."""
    for pair_id, question in content["queries"].items():
        answer, _ = _answer_of(content["responses"].get(pair_id))
        yield Pair(_text(question), answer, f"{name}: query {pair_id}", pair_id)


def _squad_pairs(articles: list[Any], name: str) -> Iterator[Pair]:
    for article in articles:
        for index, paragraph in enumerate(article.get("paragraphs", ())):
            for row in paragraph.get("qas", ()):
                answer, answer_start = _answer_of(row.get("answers"))
                yield Pair(
                    question=_text(row.get("question")),
                    answer=answer,
                    where=f"{name}: {article.get('title', '')}#{index}, question {row.get('id')}",
                    pair_id=None if row.get("id") is None else str(row["id"]),
                    contexts=_texts(paragraph.get("context")),
                    answer_start=answer_start,
                    is_unanswerable=_says_unanswerable(row),
                )


def _answer_of(value: Any) -> tuple[str, int | None]:
    """The first answer and its offset; SQuAD's list of objects, the hub's object of lists, a list, or one value."""
    if isinstance(value, dict):
        starts = value.get("answer_start")
        start = starts[0] if isinstance(starts, list) and starts else starts
        return _answer_of(value.get("text"))[0], start if isinstance(start, int) else None
    if isinstance(value, list):
        return _answer_of(value[0]) if value else ("", None)
    return _text(value), None


def _first_of(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, str) and item.strip())
