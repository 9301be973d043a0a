"""What is written into one block of the questions' artifact, and what is counted in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from radit_job import observe
from radit_job.rag.leakage import LeakFinder
from radit_job.rag.matching import match_words
from radit_job.records import Chunk, Dropped, Question, read_rows, write_rows

SHOWN = 5  # names in one warning


@dataclass(frozen=True, slots=True)
class AskedCounts:
    """What is counted only where a model reads chunks and writes pairs."""

    n_chunks: int  # in the block
    n_asked_chunks: int
    n_prompt_tokens: int
    skipped_chunks: Mapping[str, int]  # of the whole corpus, by reason; told by the first block alone


@dataclass
class WrittenBlock:
    """One block: the questions, what was dropped, and what it took."""

    number: int
    n_wanted: int | None  # of a model; what it wrote beyond that is there in case other blocks fall short
    questions: list[Question]
    dropped: list[Dropped]
    leaked: dict[str, str] = field(default_factory=dict)  # question id -> the chunk that holds the pair as a record
    n_llm_calls: int = 0
    n_completion_tokens: int = 0
    n_unanswerable: int | None = None  # kept with the answer that is taught for them; None: such are dropped
    asked: AskedCounts | None = None

    @property
    def counters(self) -> dict[str, int]:
        """For summary.json, and added up for result.json; n_without_gold counts those without an answer, too."""
        counts = {
            "n_questions": len(self.questions),
            "n_dropped": len(self.dropped),
            "n_leaked": len(self.leaked),
            "n_without_gold": sum(not question.chunk_ids for question in self.questions),
            **({} if self.n_unanswerable is None else {"n_unanswerable": self.n_unanswerable}),
            "n_llm_calls": self.n_llm_calls,
            "n_completion_tokens": self.n_completion_tokens,
        }
        if self.asked is None:
            return counts
        return {
            **counts,
            "n_prompt_tokens": self.asked.n_prompt_tokens,
            "n_chunks": self.asked.n_chunks,
            "n_asked_chunks": self.asked.n_asked_chunks,
            "n_skipped_chunks": sum(self.asked.skipped_chunks.values()),
        }

    @property
    def reasons(self) -> dict[str, int]:
        """How many pairs were dropped for each reason."""
        return dict(sorted(Counter(row.reason for row in self.dropped).items()))

    def totals(self) -> dict[str, int]:
        """For result.json: the counters, and of written pairs also why some were dropped."""
        if self.asked is None:
            return self.counters
        return {**self.counters, **{f"n_dropped_{reason}": count for reason, count in self.reasons.items()}}

    def write(self, source: str, folder: Path) -> None:
        """Write questions.jsonl, dropped.jsonl and summary.json."""
        write_rows(folder / "questions.jsonl", self.questions)
        write_rows(folder / "dropped.jsonl", self.dropped)
        summary = {
            "source": source,
            **({} if self.n_wanted is None else {"n_wanted": self.n_wanted}),
            **self.counters,
            **({} if self.asked is None else {"skipped_chunks": dict(self.asked.skipped_chunks)}),
            "dropped": self.reasons,
            "leaked": list(self.leaked),
            "leaked_in": self.leaked,
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def warn_of_missing(blocks: Sequence[WrittenBlock], n_wanted: int) -> None:
    """Say where the filters left fewer questions than were wanted."""
    n_questions = sum(len(block.questions) for block in blocks)
    if n_questions < n_wanted:
        observe.warn(f"{n_questions} of {n_wanted} wanted questions passed the filters")


def find_leaks(blocks: Sequence[WrittenBlock], chunk_file: Path) -> None:
    """Note in each block which of its pairs stand in the corpus as records."""
    owners = [(block, question) for block in blocks for question in block.questions]
    leaks = LeakFinder([(question.question, question.answer) for _, question in owners])
    for chunk in read_rows(chunk_file, Chunk):
        leaks.see(chunk.chunk_id, match_words(chunk.text))
    for number, chunk_id in sorted(leaks.found.items()):
        block, question = owners[number]
        block.leaked[question.question_id] = chunk_id


def tell_of(blocks: Sequence[WrittenBlock]) -> None:
    """Say what was dropped, and warn of questions that measure something else than they seem to."""
    by_reason: dict[str, list[str]] = {}
    for row in (row for block in blocks for row in block.dropped):
        by_reason.setdefault(row.reason, []).append(row.where)
    for reason, places in sorted(by_reason.items()):
        named = ", ".join(places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
        observe.log(f"dropped {len(places)} pairs: {reason} ({named})", reason=reason, count=len(places))
    questions = [question for block in blocks for question in block.questions]
    without_gold = sum(not question.chunk_ids for question in questions)
    without_gold -= sum(block.n_unanswerable or 0 for block in blocks)
    if without_gold:
        observe.warn(f"{without_gold} of {len(questions)} questions: no chunk is known to hold the answer")
    leaked = [place for block in blocks for place in block.leaked.items()]
    if leaked:
        first, chunk_id = leaked[0]
        observe.warn(
            f"leakage: {len(leaked)} of {len(questions)} questions stand with their answer as a record "
            f"in the corpus itself, the first is {first} in {chunk_id}"
        )
