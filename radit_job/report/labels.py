"""What metrics and arms are called in front of people, which way is better, and how numbers are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]
MINUS = "\u2212"  # the typographic minus: as wide as a plus


@dataclass(frozen=True, slots=True)
class MetricLabel:
    """How one metric is shown."""

    name: str
    short: str  # for a narrow column
    better: Better | None  # None: a description, such as a length, for which neither way is better
    decimals: int
    unit: Literal["share", "nats per token", "points", "words"]  # metrics of one unit can share an axis
    meaning: str


_METRICS = {
    "exact_match": MetricLabel(
        "exact match",
        "exact match",
        "higher",
        3,
        "share",
        "share of answers equal to the reference (SQuAD's normalisation)",
    ),
    "token_f1": MetricLabel(
        "token F1", "token F1", "higher", 3, "share", "overlap of words with the reference (SQuAD's normalisation)"
    ),
    "rouge_l": MetricLabel(
        "ROUGE-L", "ROUGE-L", "higher", 3, "share", "longest common sequence of words with the reference"
    ),
    "semantic_similarity": MetricLabel(
        "semantic similarity",
        "similarity",
        "higher",
        3,
        "share",
        "cosine of the embedder's vectors of answer and reference",
    ),
    "answer_nats_per_token": MetricLabel(
        "reference loss",
        "loss, nats",
        "lower",
        3,
        "nats per token",
        "mean negative log-probability of the reference answer",
    ),
    "correctness": MetricLabel("correctness", "correctness", "higher", 2, "points", "the judge's mark, 1 to 5"),
    "faithfulness": MetricLabel(
        "faithfulness",
        "faithful",
        "higher",
        3,
        "share",
        "share of answers that the judge finds supported by their chunks",
    ),
    "relevancy": MetricLabel(
        "relevancy",
        "relevant",
        "higher",
        3,
        "share",
        "share of answers that the judge finds in line with the question and their chunks",
    ),
    "preference": MetricLabel(
        "preferred over base",
        "preferred",
        "higher",
        3,
        "share",
        "the judge's choice between the tuned LM's answer (1) and the base LM's (0); undecided is 0.5, and 0.5 is even",
    ),
    "answer_words": MetricLabel("answer length", "words", None, 1, "words", "words in the answer"),
    "mrr": MetricLabel(
        "MRR", "MRR", "higher", 3, "share", "mean reciprocal rank of the first gold chunk among all chunks"
    ),
}

ARM_NAMES = {
    "closed_book": "closed book",
    "base": "base LM",
    "few_shot": "few-shot",
    "lm": "tuned LM",
    "lm_closed_book": "tuned closed book",
    "retriever": "tuned retriever",
    "dual": "both tuned",
}
ARM_MEANINGS = {
    "closed_book": "base LM without retrieved chunks",
    "base": "base LM with retrieved chunks",
    "few_shot": "base LM with retrieved chunks and a few training pairs in the prompt",
    "lm": "tuned LM with retrieved chunks",
    "lm_closed_book": "tuned LM without retrieved chunks",
    "retriever": "base LM with the tuned retriever's chunks",
    "dual": "tuned LM with the tuned retriever's chunks",
}

CONTEXT_MEANINGS = {
    "joined": "joined: all in one prompt",
    "separate": "separate: one prompt each, answers voted by retrieval weight",
    "ensemble": "ensemble: one prompt each, next-token probabilities mixed by retrieval weight",
}


def metric_label(metric: str) -> MetricLabel:
    """The label of a metric; `recall_at_<k>` by its k, an unknown metric by its own name."""
    if found := re.fullmatch(r"recall_at_(\w+)", metric):
        k = found[1]
        return MetricLabel(
            f"recall@{k}",
            f"recall@{k}",
            "higher",
            3,
            "share",
            f"share of questions with a gold chunk among the first {k}",
        )
    name = metric.replace("_", " ")
    return _METRICS.get(metric, MetricLabel(name, name, "higher", 3, "share", name))


def is_retrieval(metric: str) -> bool:
    """Whether the metric judges the retriever and not the answers."""
    return metric == "mrr" or metric.startswith("recall_at_")


def arm_name(arm: str) -> str:
    """The arm's name in running text."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def number(value: float | None, decimals: int = 2, *, signed: bool = False) -> str:
    """A number with a typographic minus; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, decimals: int = 2) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `5 min 12 s`, `2 h 03 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(n_bytes: int) -> str:
    """Bytes as a person says them, in powers of 1024: `512 B`, `3.1 KiB`, `88.2 MiB`."""
    if n_bytes < 1024:
        return f"{n_bytes} B"
    value = float(n_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
