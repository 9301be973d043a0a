"""Answers to judged scores: which answers the judge is asked about, and how far it agrees with itself."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radit_job.models.base import Conversation
from radit_job.rag.judging import METRICS, Judge, Judged, Judgement, RepeatableModel
from radit_job.rag.preference import count_preferences, preferences
from radit_job.records import CLOSED_BOOK_ARMS, NEED_CONTEXT, Prediction, Score

PREFERRED, AGAINST = "lm", "base"
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Repeats:
    """Which judgements of correctness are asked a second time: `n`, drawn with the seed from all arms."""

    model: RepeatableModel  # the judge itself, where it may judge otherwise when it is asked again
    n: int
    seed: int


def judged_scores(
    judge: Judge,
    rows: Sequence[Prediction],
    texts: Mapping[str, str],
    metrics: Sequence[str],
    repeats: Repeats | None = None,
) -> tuple[dict[str, list[Score]], dict[str, Any]]:
    """The scores by metric, and what is to be known of the judge: the "judge" of results.json.

    An answer that failed fails in every metric. Without a context (closed book) there is no score of one that needs it.

    Args:
        texts: chunk id -> text, of the chunks that the answers name.
        repeats: None for a judge that is deterministic.
    """
    scores: dict[str, list[Score]] = {}
    section: dict[str, Any] = {"repeated": None, "preference": None}
    for metric in metrics:
        if metric == "preference":
            scores[metric], section["preference"] = _preference(judge, rows)
        else:
            mine = [row for row in rows if metric not in NEED_CONTEXT or _has_context(row)]
            judged = [_judged(row, texts if metric in NEED_CONTEXT else {}) for row in mine if row.error is None]
            prompt, read = METRICS[metric]
            prompts = [prompt(item) for item in judged]
            judgements = judge.ask(metric, prompts, read)
            remaining = iter(judgements)
            scores[metric] = [_score(row, metric, next(remaining) if row.error is None else None) for row in mine]
            if metric == "correctness" and repeats is not None and repeats.n:
                section["repeated"] = _self_agreement(judge, dict(zip(prompts, judgements, strict=True)), repeats)
    section["asked"] = {
        metric: {"n": judge.n_asked[metric], "n_failed": reasons.total(), "reasons": dict(reasons.most_common())}
        for metric, reasons in judge.failures.items()
    }
    return scores, section


def _has_context(row: Prediction) -> bool:
    return row.arm not in CLOSED_BOOK_ARMS and bool(row.chunk_ids or row.error)


def _judged(row: Prediction, texts: Mapping[str, str]) -> Judged:
    contexts = tuple(texts[chunk_id] for chunk_id in row.chunk_ids) if texts else ()
    return Judged(row.question, row.answer, row.reference, contexts)


def _score(row: Prediction, metric: str, judgement: Judgement | None) -> Score:
    """Of one answer; without a judgement that of an answer which failed itself."""
    value = None if judgement is None or judgement.value is None else round(judgement.value, DECIMALS)
    error = row.error if judgement is None else judgement.error
    return Score(row.question_id, row.arm, row.split, metric, value, error)


def _preference(judge: Judge, rows: Sequence[Prediction]) -> tuple[list[Score], dict[str, Any]]:
    """One score per question that both arms were asked, and the counts over the held-out ones."""
    others = {(row.question_id, row.split): row for row in rows if row.arm == AGAINST}
    mine = [row for row in rows if row.arm == PREFERRED and (row.question_id, row.split) in others]
    pairs = [(row, others[row.question_id, row.split]) for row in mine]
    answered = [(row, other) for row, other in pairs if row.error is None and other.error is None]
    found = preferences(judge, [(_judged(row, {}), _judged(other, {})) for row, other in answered])
    remaining = iter(found)
    scores = []
    for row, other in pairs:
        if error := row.error or other.error:
            scores.append(Score(row.question_id, row.arm, row.split, "preference", None, error))
        else:
            scores.append(_score(row, "preference", next(remaining).judgement))
    held_out = [item for item, (row, _) in zip(found, answered, strict=True) if row.split == "val"]
    n_unanswered = sum(row.split == "val" for row, _ in pairs) - len(held_out)
    return scores, count_preferences(held_out, n_unanswered)


def _self_agreement(judge: Judge, judgements: Mapping[Conversation, Judgement], repeats: Repeats) -> dict[str, Any]:
    """How some judgements that could be read compare with those of a second time, all else being equal."""
    values = {asked: item.value for asked, item in judgements.items() if item.value is not None}
    candidates = list(values)
    drawn = random.Random(f"{repeats.seed}/judge").sample(range(len(candidates)), min(repeats.n, len(candidates)))
    prompts = [candidates[row] for row in sorted(drawn)]
    again = judge.ask_again("correctness", repeats.model, prompts, METRICS["correctness"][1])
    pairs = [(values[asked], item.value) for asked, item in zip(prompts, again, strict=True) if item.value is not None]
    distances = [abs(first - second) for first, second in pairs]
    return {
        "n": len(pairs),
        "n_equal": distances.count(0.0),
        "mean_abs_difference": round(sum(distances) / len(distances), DECIMALS) if distances else None,
        "n_failed": len(prompts) - len(pairs),
    }
