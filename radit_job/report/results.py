"""results.json as typed rows that can be looked up by arm, metric and split."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from radit_job.records import RETRIEVER_ARMS
from radit_job.report.labels import is_retrieval, metric_label

Verdict = Literal["better", "worse", "different", "unclear"]

# A bootstrap over so few questions gives intervals that are far too narrow (one question: a point).
FEWEST_TO_CLAIM = 8
# What was tuned, and the base LM that was asked in the same way; the first pair that there is makes the headline.
TUNED_PAIRS = (("lm", "base"), ("dual", "base"), ("retriever", "base"), ("lm_closed_book", "closed_book"))
SHOWN_PAIRS = (
    ("lm", "base"),
    ("dual", "base"),
    ("dual", "lm"),
    ("retriever", "base"),
    ("few_shot", "base"),
    ("lm", "few_shot"),
    ("dual", "few_shot"),
    ("dual", "retriever"),
    ("closed_book", "base"),
    ("lm_closed_book", "closed_book"),
)


@dataclass(frozen=True, slots=True)
class Mean:
    """One metric of one arm over the questions of a split, with its 95 % bootstrap interval."""

    arm: str
    split: str
    metric: str
    mean: float | None  # None when no question could be measured
    low: float | None
    high: float | None
    n: int
    n_failed: int


@dataclass(frozen=True, slots=True)
class Difference:
    """`arm` minus `against` on the same questions, with its 95 % paired bootstrap interval."""

    arm: str
    against: str
    split: str
    metric: str
    delta: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero, on enough questions for the interval to mean something."""
        if self.delta is None or self.low is None or self.high is None or self.n < FEWEST_TO_CLAIM:
            return False
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> Verdict:
        """Better or worse as the metric sees it; different where neither way is better; unclear without a claim."""
        if not self.is_clear or self.delta is None:
            return "unclear"
        better = metric_label(self.metric).better
        if better is None:
            return "different"
        return "better" if (self.delta > 0) == (better == "higher") else "worse"

    def reversed(self) -> Difference:
        """`against` minus `arm`."""
        delta, low, high = (None if value is None else -value for value in (self.delta, self.high, self.low))
        return Difference(self.against, self.arm, self.split, self.metric, delta, low, high, self.n)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One retrieval metric of the untuned and of the tuned retriever, and the second minus the first."""

    metric: str
    untuned: Mean | None
    tuned: Mean | None
    difference: Difference | None


class Results:
    """The rows and pairs of one results.json; missing parts are empty, unknown fields are ignored."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.run: str = plain.get("run") or ""
        self.judge: dict[str, Any] | None = plain.get("judge") or None
        self.rows = [_only_fields(Mean, {"n_failed": 0, **row}) for row in plain.get("rows", [])]
        self.pairs = [_only_fields(Difference, pair) for pair in plain.get("pairs", [])]
        self.arms: list[str] = list(plain.get("arms") or dict.fromkeys(row.arm for row in self.rows))

    def mean(self, arm: str, metric: str, split: str = "val") -> Mean | None:
        """The row of an arm and a metric, if it was measured."""
        found = (row for row in self.rows if (row.arm, row.metric, row.split) == (arm, metric, split))
        return next((row for row in found if row.mean is not None), None)

    def difference(self, arm: str, against: str, metric: str, split: str = "val") -> Difference | None:
        """The paired difference of two arms, if it was measured in either direction."""
        for pair in self.pairs:
            if (pair.metric, pair.split) == (metric, split) and pair.delta is not None:
                if (pair.arm, pair.against) == (arm, against):
                    return pair
                if (pair.arm, pair.against) == (against, arm):
                    return pair.reversed()
        return None

    def answer_pairs(self, split: str = "val") -> list[Difference]:
        """The differences of answers; those of retrieval are no arm's merit."""
        return [pair for pair in self.pairs if pair.split == split and not is_retrieval(pair.metric)]

    def has_too_few(self, split: str = "val") -> bool:
        """Whether a difference of answers rests on too few questions for a claim, whatever its interval."""
        return any(0 < pair.n < FEWEST_TO_CLAIM for pair in self.answer_pairs(split))

    def answer_metrics(self, split: str = "val") -> list[str]:
        """The metrics that judge answers, in the order of the rows; the answers' length comes last."""
        names = dict.fromkeys(row.metric for row in self.rows if row.split == split and not is_retrieval(row.metric))
        return sorted(names, key=lambda name: name == "answer_words")

    def retrieval(self, split: str = "val") -> list[Retrieval]:
        """One row per retrieval metric; it is measured once for each retriever, under one of its arms."""
        names = {row.metric for row in self.rows if row.split == split and is_retrieval(row.metric)}
        found = [self._retrieval(metric, split) for metric in sorted(names, key=_retrieval_order)]
        return [row for row in found if row.untuned or row.tuned]

    def _retrieval(self, metric: str, split: str) -> Retrieval:
        rows = [row for row in self.rows if (row.metric, row.split) == (metric, split) and row.mean is not None]
        tuned = next((row for row in rows if row.arm in RETRIEVER_ARMS), None)
        untuned = next((row for row in rows if row.arm not in RETRIEVER_ARMS), None)
        difference = self.difference(tuned.arm, untuned.arm, metric, split) if tuned and untuned else None
        return Retrieval(metric, untuned, tuned, difference)

    def shown_pairs(self, split: str = "val") -> list[tuple[str, str]]:
        """The (arm, against) pairs that were compared, in one direction each; those that explain a gain come first."""
        present = dict.fromkeys((pair.arm, pair.against) for pair in self.answer_pairs(split))
        shown: list[tuple[str, str]] = []
        for arm, against in [*(pair for pair in SHOWN_PAIRS if pair in present), *present]:
            if not {(arm, against), (against, arm)} & set(shown):
                shown.append((arm, against))
        return shown

    def n_questions(self, split: str = "val") -> int:
        """Questions behind the split's rows: the most that any answer metric saw, failed ones included."""
        return max(
            (row.n + row.n_failed for row in self.rows if row.split == split and not is_retrieval(row.metric)),
            default=0,
        )

    def n_failed(self, arm: str, split: str = "val") -> int:
        """The most questions of an arm that a metric could not measure."""
        return max(
            (
                row.n_failed
                for row in self.rows
                if (row.arm, row.split) == (arm, split) and not is_retrieval(row.metric)
            ),
            default=0,
        )


def _only_fields(kind: Any, plain: dict[str, Any]) -> Any:
    return kind(**{field.name: plain.get(field.name) for field in fields(kind)})


def _retrieval_order(metric: str) -> tuple[int, int]:
    k = metric.removeprefix("recall_at_")
    return (0, int(k)) if k.isdigit() else (1, 0)
