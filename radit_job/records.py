"""The row types of every JSONL artifact, and how rows are read and written.

A row is a frozen dataclass; its JSON keys are its field names. Readers stream: one row in memory at a time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

Split = Literal["val", "train"]

# What is told apart by an arm's name.
CLOSED_BOOK_ARMS = frozenset({"closed_book", "lm_closed_book"})  # they answer without retrieved chunks
TUNED_ARMS = frozenset({"lm", "lm_closed_book", "dual"})  # the tuned LM answers
RETRIEVER_ARMS = frozenset({"retriever", "dual"})  # the tuned retriever finds their chunks
# Judged metrics that hold an answer against the chunks it was given: a closed-book arm has no score in them.
NEED_CONTEXT = frozenset({"faithfulness", "relevancy"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """`chunks/documents.jsonl`: what ingest found in one document."""

    document: str  # the document's name: its path below the corpus, or the id its JSON record gave it
    status: Literal["read", "skipped"]
    reason: str  # why it was skipped; empty when it was read
    n_pages: int  # 1 for formats without pages
    n_characters: int  # of the cleaned text
    n_chunks: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """`chunks/chunks.jsonl`: one token-sized piece of a document."""

    chunk_id: str  # "<document>#00012": the document's name and the chunk's position in it
    document: str
    page: int | None  # 1-based page on which the chunk starts; None for formats without pages
    start_char: int  # offset of the first character in the document's cleaned text
    end_char: int  # offset behind the last one
    n_tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """`questions/<block>/questions.jsonl`; after the split `train_questions/` and `val_questions/questions.jsonl`."""

    question_id: str
    question: str
    answer: str  # the reference answer
    document: str | None  # the document that holds the answer, where it is known
    chunk_ids: tuple[str, ...]  # the gold chunks: those that hold the answer; empty where unknown
    source: Literal["file", "generated"]
    # Of a question without an answer: the chunks that it is about, where they are known. None of them is gold.
    passage_chunk_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """`questions/<block>/dropped.jsonl`: a pair that was not kept, and why."""

    reason: str  # a short slug that can be counted, such as "duplicate" or "empty_answer"
    where: str  # file and line, or the chunk id it came from
    text: str  # the question, or what stood in its place


@dataclass(frozen=True, slots=True)
class Example:
    """`examples/examples.jsonl`: one training conversation; the loss is taken on the assistant's message only."""

    question_id: str
    question: str  # as it stands in the user's message
    group: str  # one name for all questions that hang together by their passages: they are held out together
    chunk_ids: tuple[str, ...]  # the chunks in the context, in the order in which they stand there
    scores: tuple[float, ...]  # their cosine similarity with the question
    gold_in_context: bool | None  # None where the gold chunk is unknown
    messages: tuple[Message, ...]  # system, user, assistant


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """`lm_scores/<block>.jsonl`: how likely the base LM finds a training answer after each of its candidate chunks."""

    question_id: str
    question: str
    group: str  # as in Example: what is held out together
    gold_chunk_ids: tuple[str, ...]  # empty where unknown
    chunk_ids: tuple[str, ...]  # the candidates: the untuned retriever's nearest chunks, best first
    similarities: tuple[float, ...]  # their cosine with the question, by the untuned retriever
    log_probability_nats: tuple[float, ...]  # of the whole answer after each: a sum over its tokens, end token included
    n_answer_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """`predictions/<block>-<arm>.jsonl`: what one arm answered to one question."""

    question_id: str
    arm: str
    split: Split
    question: str
    reference: str
    answer: str
    chunk_ids: tuple[str, ...]  # the retrieved chunks, best first; empty for closed_book
    scores: tuple[float, ...]
    gold_chunk_ids: tuple[str, ...]
    gold_rank: int | None  # 1-based rank of the first gold chunk among ALL chunks; None where gold is unknown
    n_prompt_tokens: int
    n_completion_tokens: int
    finish_reason: Literal["stop", "length", "content_filter", "error"]
    answer_nats_per_token: float | None  # mean negative log-probability of the reference answer; None if not measured
    error: str | None  # why there is no answer


@dataclass(frozen=True, slots=True)
class Score:
    """`scores/scores.jsonl`: one metric of one answer; exactly one of value and error is set."""

    question_id: str
    arm: str
    split: Split
    metric: str
    value: float | None
    error: str | None


Row = TypeVar("Row")


def to_json(row: Any) -> str:
    """One row as one line of JSON (no newline at its end)."""
    return json.dumps(dataclasses.asdict(row), ensure_ascii=False, allow_nan=False)


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as JSONL, streaming; returns how many. The folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(to_json(row) + "\n")
            count += 1
    return count


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Stream the rows of a JSONL file that `write_rows` wrote; lists come back as tuples."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield parse_row(line, kind)


def read_blocks(folder: Path, pattern: str, kind: type[Row]) -> Iterator[Row]:
    """Stream the rows of all JSONL files that match, in the order of their names: the blocks of a divided stage."""
    for path in sorted(folder.glob(pattern)):
        yield from read_rows(path, kind)


def parse_row(line: str, kind: type[Row]) -> Row:
    """The inverse of `to_json`; lists come back as tuples."""
    fields: dict[str, Any] = json.loads(line)
    for name, value in fields.items():
        if isinstance(value, list):
            messages = name == "messages"
            fields[name] = tuple(Message(**item) if messages else item for item in value)
    return kind(**fields)
