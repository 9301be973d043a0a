"""What the results say of the retriever: its own figures, and what they are worth for the answers."""

from __future__ import annotations

from typing import Any

from radit_job.report.claims import Finding, claim, measured
from radit_job.report.labels import metric_label, number
from radit_job.report.results import FEWEST_TO_CLAIM, Difference, Mean, Results, Retrieval


def table(results: Results, split: str = "val") -> dict[str, Any]:
    """The rows of retrieval metrics, and whether there is a tuned retriever to set beside the untuned one."""
    rows = results.retrieval(split)
    return {
        "rows": [{"label": metric_label(row.metric), "found": row, "n": _n(row)} for row in rows],
        "has_both": any(row.tuned and row.untuned for row in rows),
        "is_tuned": any(row.tuned for row in rows),
    }


def findings(results: Results, metric: str | None, *, k: int | None) -> list[Finding]:
    """Whether the retriever gained, what that is worth for the base LM's answers, and for the tuned LM's.

    Args:
        metric: of answers, that the headline is about.
        k: chunks that a question gets; recall at this rank is what the LM sees of the retriever.
    """
    found = [_retriever(results, k)]
    if metric is not None:
        found += [_answers(results, metric), _both_halves(results, metric)]
    return [finding for finding in found if finding]


def _n(row: Retrieval) -> int:
    return next((found.n for found in (row.difference, row.untuned, row.tuned) if found), 0)


def _retriever(results: Results, k: int | None) -> Finding | None:
    rows = {row.metric: row for row in results.retrieval() if row.difference and row.untuned and row.tuned}
    row = rows.get(f"recall_at_{k}") or rows.get("mrr") or next(iter(rows.values()), None)
    if row is None or not (row.difference and row.untuned and row.tuned):
        return None
    said = {"better": "The tuned retriever gained", "worse": "The tuned retriever lost"}
    begin = said.get(row.difference.verdict, "The tuned retriever shows no gain that one could claim")
    change = _change(row.metric, row.untuned, row.tuned, row.difference)
    return Finding("Retriever", f"{begin}: {change}.", row.difference.verdict)


def _answers(results: Results, metric: str) -> Finding | None:
    difference = results.difference("retriever", "base", metric)
    if difference is None:
        return None
    text = (
        f"With the tuned retriever’s chunks the base LM’s {metric_label(metric).name} changes by {claim(difference)}."
    )
    return Finding("Answers on its chunks", text, difference.verdict)


def _both_halves(results: Results, metric: str) -> Finding | None:
    difference = results.difference("dual", "lm", metric)
    both, alone = results.mean("dual", metric), results.mean("lm", metric)
    if not (difference and both and alone):
        return None
    said = {
        "better": "The tuned retriever makes the tuned LM better",
        "worse": "The tuned retriever makes the tuned LM worse",
    }
    begin = said.get(difference.verdict, "The tuned retriever adds nothing that one could claim to the tuned LM")
    return Finding("Both halves", f"{begin}: {_change(metric, alone, both, difference)}.", difference.verdict)


def _change(metric: str, before: Mean, after: Mean, difference: Difference) -> str:
    few = f" on {difference.n} questions, too few for a claim" if difference.n < FEWEST_TO_CLAIM else ""
    return (
        f"{metric_label(metric).name} {number(before.mean)} → {number(after.mean)}, a difference of "
        f"{measured(difference)}{few}"
    )
