"""Scores to tables: each arm's mean with its interval, and the paired difference of two arms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from radit_job.rag.stats import Interval, intervals
from radit_job.records import Score

Values = dict[str, float]  # question id -> value
Key = tuple[str, str, str]  # arm, split, metric
Name = TypeVar("Name", bound=Hashable)

# Every arm is compared with base; these besides: is a gain more than style, what does each half add to the other, what
# is retrieval worth, and what does the tuned LM know by itself. `preference` is a comparison already: it is summarised,
# and 0.5 is even.
FURTHER_PAIRS = (
    ("lm", "few_shot"),
    ("dual", "few_shot"),
    ("dual", "lm"),
    ("dual", "retriever"),
    ("base", "closed_book"),
    ("lm_closed_book", "closed_book"),
)
DECIMALS = 6


def summarize(scores: Sequence[Score], *, samples: int, seed: int) -> list[dict[str, Any]]:
    """One row per arm, split and metric, in order of appearance: mean, low, high, n, n_failed.

    A failed score is counted and takes no part in the mean; without any value the mean and its interval are None.
    """
    values = _values(scores)
    n_failed: dict[Key, int] = defaultdict(int)
    for score in scores:
        n_failed[score.arm, score.split, score.metric] += score.value is None
    found = _all_intervals(values, samples=samples, seed=seed)
    return [
        {"arm": arm, "split": split, "metric": metric}
        | _ends(found[arm, split, metric], "mean")
        | {"n_failed": n_failed[arm, split, metric]}
        for arm, split, metric in values
    ]


def compare(
    scores: Sequence[Score],
    metrics: Iterable[str],
    *,
    samples: int,
    seed: int,
    pairs: Iterable[tuple[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """One row per pair of arms, split and metric: the mean of arm - against over the questions that both have.

    Without `pairs`, (arm, against), every arm is compared with base, and FURTHER_PAIRS are.

    Pairing takes out what two arms have in common, how hard each question is: the interval is narrower than that of two
    separate means, and it is the one that tells whether one arm is better.
    """
    values = _values(scores)
    splits = list(dict.fromkeys(split for _, split, _ in values))
    arms = list(dict.fromkeys(arm for arm, _, _ in values))
    differences: dict[tuple[str, str, str, str], Values] = {}
    metrics = list(metrics)
    for arm, against in _pairs(arms) if pairs is None else pairs:
        for split in splits:
            for metric in metrics:
                mine, theirs = values.get((arm, split, metric), {}), values.get((against, split, metric), {})
                shared = {question: value - theirs[question] for question, value in mine.items() if question in theirs}
                if shared:
                    differences[arm, against, split, metric] = shared
    found = _all_intervals(differences, samples=samples, seed=seed)
    return [
        {"arm": arm, "against": against, "split": split, "metric": metric} | _ends(interval, "delta")
        for (arm, against, split, metric), interval in found.items()
    ]


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    against_base = [(arm, "base") for arm in arms if arm != "base" and ("base", arm) not in FURTHER_PAIRS]
    return [(arm, other) for arm, other in (*against_base, *FURTHER_PAIRS) if arm in arms and other in arms]


def _values(scores: Iterable[Score]) -> dict[Key, Values]:
    values: dict[Key, Values] = {}
    for score in scores:
        found = values.setdefault((score.arm, score.split, score.metric), {})
        if score.value is not None:
            found[score.question_id] = score.value
    return values


def _all_intervals(columns: Mapping[Name, Values], *, samples: int, seed: int) -> dict[Name, Interval]:
    """The interval of each column; columns over the same questions are resampled together, which is much faster."""
    by_questions: dict[tuple[str, ...], list[Name]] = defaultdict(list)
    for name, values in columns.items():
        by_questions[tuple(sorted(values))].append(name)
    found: dict[Name, Interval] = {}
    for questions, names in by_questions.items():
        matrix = np.array([[columns[name][question] for name in names] for question in questions], dtype=np.float64)
        matrix = matrix.reshape(len(questions), len(names))  # also when there are no questions
        found.update(zip(names, intervals(matrix, samples=samples, seed=seed), strict=True))
    return {name: found[name] for name in columns}


def _ends(interval: Interval, centre: str) -> dict[str, float | int | None]:
    ends = {centre: interval.mean, "low": interval.low, "high": interval.high}
    return {name: _rounded(end) for name, end in ends.items()} | {"n": interval.n}


def _rounded(end: float | None) -> float | None:
    return None if end is None else round(end, DECIMALS) + 0.0  # + 0.0: no "-0.0" where it rounds to nothing
