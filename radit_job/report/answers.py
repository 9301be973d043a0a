"""The arms' answers to one question side by side, and which questions are worth reading first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from radit_job.records import RETRIEVER_ARMS, Prediction, Score
from radit_job.report.labels import arm_name
from radit_job.report.results import TUNED_PAIRS

FEATURED = 5


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """What one arm said."""

    arm: str
    name: str
    answer: str
    score: float | None  # of the metric that the page compares by; None if it failed
    note: str  # why there is no answer, or that it was cut off


@dataclass(frozen=True, slots=True)
class Sources:
    """What a retriever found for one question."""

    title: str
    chunks: tuple[tuple[str, str, bool], ...]  # (chunk id, place such as "llama.pdf, p. 4", is it gold?), best first
    gold_rank: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question with the answers of all arms."""

    question_id: str
    question: str
    reference: str
    answers: tuple[ArmAnswer, ...]
    retrieved: tuple[Sources, ...]  # of each retriever; of both in one where they found the same
    difference: float | None  # of the compared arm's score against the other's; of one arm alone its score

    @property
    def group(self) -> str:
        """better, worse or same, for the page's filter; failed when there is no difference."""
        if self.difference is None:
            return "failed"
        return "same" if abs(self.difference) < 0.005 else "better" if self.difference > 0 else "worse"


def compared_arms(arms: Sequence[str]) -> tuple[str, str | None]:
    """The arm that the answers are sorted by, and the one it is measured against (None: there is just one arm)."""
    if tuned := next((pair for pair in TUNED_PAIRS if set(pair) <= set(arms)), None):
        return tuned
    first = "lm" if "lm" in arms else arms[-1]
    second = "base" if "base" in arms and first != "base" else next((arm for arm in arms if arm != first), None)
    return first, second


def comparisons(
    predictions: Iterable[Prediction],
    scores: Iterable[Score],
    *,
    arms: Sequence[str],
    metric: str,
    pages: Mapping[str, int | None],
) -> list[Comparison]:
    """One comparison per held-out question, in the order of the predictions.

    Args:
        metric: whose scores are shown beside the answers.
        pages: chunk id -> page, for the chunks that were retrieved; a missing one is shown by its id alone.
    """
    values = {(row.question_id, row.arm): row.value for row in scores if row.metric == metric and row.split == "val"}
    by_question: dict[str, dict[str, Prediction]] = {}
    for row in predictions:
        if row.split == "val":
            by_question.setdefault(row.question_id, {})[row.arm] = row
    first, second = compared_arms(arms)
    return [_comparison(found, values, arms, first, second, pages) for found in by_question.values()]


def _comparison(
    found: Mapping[str, Prediction],
    values: Mapping[tuple[str, str], float | None],
    arms: Sequence[str],
    first: str,
    second: str | None,
    pages: Mapping[str, int | None],
) -> Comparison:
    any_row = next(iter(found.values()))
    answers = tuple(
        ArmAnswer(arm, arm_name(arm), row.answer, values.get((row.question_id, arm)), _note(row))
        for arm in arms
        if (row := found.get(arm))
    )
    mine = values.get((any_row.question_id, first))
    other = 0.0 if second is None else values.get((any_row.question_id, second))
    return Comparison(
        question_id=any_row.question_id,
        question=any_row.question,
        reference=any_row.reference,
        answers=answers,
        retrieved=_retrieved(found, pages),
        difference=None if mine is None or other is None else mine - other,
    )


def _retrieved(found: Mapping[str, Prediction], pages: Mapping[str, int | None]) -> tuple[Sources, ...]:
    """What the untuned and the tuned retriever found: all arms of one retriever see the same chunks."""
    rows = [row for row in found.values() if row.chunk_ids]
    untuned = next((row for row in rows if row.arm not in RETRIEVER_ARMS), None)
    tuned = next((row for row in rows if row.arm in RETRIEVER_ARMS), None)
    if untuned and tuned and (untuned.chunk_ids, untuned.gold_rank) == (tuned.chunk_ids, tuned.gold_rank):
        return (_sources("retrieved, tuned or not", untuned, pages),)
    shown = [("retrieved", untuned), ("by the tuned retriever", tuned)]
    return tuple(_sources(title, row, pages) for title, row in shown if row)


def _sources(title: str, row: Prediction, pages: Mapping[str, int | None]) -> Sources:
    chunks = tuple((chunk, place(chunk, pages.get(chunk)), chunk in row.gold_chunk_ids) for chunk in row.chunk_ids)
    return Sources(title, chunks, row.gold_rank)


def _note(row: Prediction) -> str:
    if row.error:
        return f"no answer: {row.error}"
    return "cut off at the longest allowed answer" if row.finish_reason == "length" else ""


def place(chunk_id: str, page: int | None) -> str:
    """Where a chunk stands: its document and page, or its position where there are no pages."""
    document, _, position = chunk_id.rpartition("#")
    if not document:
        return chunk_id
    return (
        f"{document}, p. {page}"
        if page is not None
        else f"{document}, chunk {int(position) + 1 if position.isdigit() else position}"
    )


def extremes(found: Sequence[Comparison], n: int = FEATURED) -> tuple[list[Comparison], list[Comparison]]:
    """The n questions with the least gain, worst first, and the n with the most, best first; none is in both."""
    ranked = sorted(
        (row for row in found if row.difference is not None), key=lambda row: (row.difference, row.question_id)
    )
    n = min(n, len(ranked) // 2)
    return ranked[:n], list(reversed(ranked[len(ranked) - n :]))
