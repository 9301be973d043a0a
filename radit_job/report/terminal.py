"""Results for a terminal of 80 columns, and as CSV. Imports rich alone: the controller uses it."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from radit_job.report import judge
from radit_job.report.labels import metric_label
from radit_job.report.results import FEWEST_TO_CLAIM, Difference, Mean, Results, Retrieval
from radit_job.report.terminal_table import CLEAR, WIDTH, Block, Cell, difference_cell, mean_cell, tables

CSV_FIELDS = ("run", "kind", "arm", "against", "split", "metric", "value", "low", "high", "n", "n_failed")
DIFFERENCE = "tuned - untuned"


def results_table(results: Mapping[str, Any], *, split: str = "val") -> RenderableType:
    """One run in 80 columns: the arms' means with intervals, what differs from base, the retriever's figures."""
    found = Results(dict(results))
    metrics = found.answer_metrics(split)
    if not metrics:
        return Text(f"No results on {_split_name(split)} questions.")
    means = [(arm, _means_of(found, arm, split)) for arm in found.arms]
    pairs = found.shown_pairs(split)
    blocks = [Block("", means)]
    for against in dict.fromkeys(against for _, against in pairs):
        rows = [(arm, _differences_of(found, (arm, other), split)) for arm, other in pairs if other == against]
        blocks.append(Block(f"vs {against}", rows))
    title = f"{found.run}: " if found.run else ""
    head = Text(f"{title}{found.n_questions(split)} {_split_name(split)} questions", style="bold")
    return Group(head, *tables(metrics, blocks), *_retrieval(found, split), *_notes(found, split))


def runs_table(runs: Sequence[Mapping[str, Any]], *, split: str = "val") -> RenderableType:
    """Several runs side by side: a block for each arm and each difference, a row in it for each run."""
    found = [Results(dict(run)) for run in runs]
    names = _distinct_names(found)
    metrics = list(dict.fromkeys(metric for run in found for metric in run.answer_metrics(split)))
    if not metrics:
        return Text(f"No results on {_split_name(split)} questions.")
    metrics.sort(key=lambda metric: metric == "answer_words")
    blocks = []
    for arm in dict.fromkeys(arm for run in found for arm in run.arms):
        shown = [(name, run) for name, run in zip(names, found, strict=True) if arm in run.arms]
        blocks.append(Block(arm, [(name, _means_of(run, arm, split, with_interval=False)) for name, run in shown]))
    for pair in dict.fromkeys(pair for run in found for pair in run.shown_pairs(split)):
        rows = [
            (name, _differences_of(run, pair, split))
            for name, run in zip(names, found, strict=True)
            if pair in run.shown_pairs(split)
        ]
        blocks.append(Block(f"{pair[0]} - {pair[1]}", rows))
    counts = ", ".join(f"{name} {run.n_questions(split)}" for name, run in zip(names, found, strict=True))
    head = Text(f"{_split_name(split)} questions: {counts}", style="bold")
    retrieved = [row.difference for run in found for row in run.retrieval(split) if row.difference]
    legend = Text("\n" + _legend(found, split, retrieved), style="dim")
    return Group(head, *tables(metrics, blocks), *_retrieval_of_runs(names, found, split), legend)


def results_csv(*runs: Mapping[str, Any]) -> str:
    """Every row and pair as one CSV with a header: kind `mean` has no `against`, kind `difference` no `n_failed`."""
    target = io.StringIO()
    writer = csv.DictWriter(target, CSV_FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for plain in runs:
        run = Results(dict(plain))
        for row in run.rows:
            writer.writerow(_csv_row(run, "mean", row, row.mean) | {"n_failed": row.n_failed})
        for pair in run.pairs:
            writer.writerow(_csv_row(run, "difference", pair, pair.delta) | {"against": pair.against})
    return target.getvalue()


def _csv_row(run: Results, kind: str, row: Mean | Difference, value: float | None) -> dict[str, Any]:
    return {
        "run": run.run,
        "kind": kind,
        "arm": row.arm,
        "split": row.split,
        "metric": row.metric,
        "value": value,
        "low": row.low,
        "high": row.high,
        "n": row.n,
    }


def _means_of(results: Results, arm: str, split: str, *, with_interval: bool = True) -> Callable[[str], Cell]:
    return lambda metric: mean_cell(results.mean(arm, metric, split), with_interval=with_interval)


def _differences_of(results: Results, pair: tuple[str, str], split: str) -> Callable[[str], Cell]:
    return lambda metric: difference_cell(results.difference(*pair, metric, split))


def _retrieval(results: Results, split: str) -> Iterator[RenderableType]:
    """One retriever in a line; the tuned beside the untuned one as a table, with their difference."""
    rows = results.retrieval(split)
    if not rows:
        return
    n = max(found.n for row in rows for found in (row.untuned, row.tuned) if found)
    if not any(row.untuned and row.tuned for row in rows):
        found = [(row.metric, row.untuned or row.tuned) for row in rows]
        figures = [
            f"{metric_label(metric).name} {mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]"
            for metric, mean in found
            if mean and mean.low is not None
        ]
        which = "" if any(row.untuned for row in rows) else "tuned "
        yield Text(f"\n{which}retrieval, n = {n}: " + "  ".join(figures))
        return
    yield Text(f"\nretrieval, {n} questions whose gold chunk is known", style="bold")
    of = _retrieval_cells(rows)
    blocks = [
        Block("", [("untuned", of["untuned"]), ("tuned", of["tuned"])]),
        Block("vs untuned", [("tuned", of[DIFFERENCE])]),
    ]
    yield from tables([row.metric for row in rows], blocks)


def _retrieval_of_runs(names: Sequence[str], runs: Sequence[Results], split: str) -> Iterator[RenderableType]:
    """Where a retriever was tuned: a block for each retriever and for their difference, a row in it for each run."""
    rows_of = {name: rows for name, run in zip(names, runs, strict=True) if (rows := run.retrieval(split))}
    if not any(row.tuned for rows in rows_of.values() for row in rows):
        return
    cells = {name: _retrieval_cells(rows) for name, rows in rows_of.items()}
    blocks = [
        Block(kind, [(name, of[kind]) for name, of in cells.items()]) for kind in ("untuned", "tuned", DIFFERENCE)
    ]
    yield Text("\nretrieval, questions whose gold chunk is known", style="bold")
    yield from tables(list(dict.fromkeys(row.metric for rows in rows_of.values() for row in rows)), blocks)


def _retrieval_cells(rows: Sequence[Retrieval]) -> dict[str, Callable[[str], Cell]]:
    found = {row.metric: row for row in rows}
    return {
        "untuned": lambda metric: mean_cell(found[metric].untuned if metric in found else None),
        "tuned": lambda metric: mean_cell(found[metric].tuned if metric in found else None),
        DIFFERENCE: lambda metric: difference_cell(found[metric].difference if metric in found else None),
    }


def _notes(results: Results, split: str) -> Iterator[Text]:
    retrieved = [row.difference for row in results.retrieval(split) if row.difference]
    yield Text("\n" + _legend([results], split, retrieved), style="dim")
    failed = [f"{arm} {count}" for arm in results.arms if (count := results.n_failed(arm, split))]
    if failed:
        yield Text(f"not measured, in no mean: {', '.join(failed)}", style="yellow")
    if results.judge is not None:
        name = results.judge.get("model") or "unknown"
        said = [f"judge: {name}.", judge.preference(results.judge), judge.agreement(results.judge)]
        yield Text("\n" + _wrapped(*said), style="dim")
        if cautions := judge.cautions(results):
            yield Text(_wrapped(*cautions), style="yellow")


def _wrapped(*sentences: str) -> str:
    return "\n".join(textwrap.wrap(" ".join(filter(None, sentences)), WIDTH))


def _legend(runs: Sequence[Results], split: str, retrieved: Sequence[Difference] = ()) -> str:
    """What the marks mean, among all differences that are shown."""
    pairs = [*(pair for run in runs for pair in run.answer_pairs(split)), *retrieved]
    too_few = any(0 < pair.n < FEWEST_TO_CLAIM for pair in pairs)
    said = "Intervals: 95 %. (lower): lower is better."
    if any(pair.is_clear for pair in pairs):
        said += f"\n{CLEAR}: the difference's interval excludes 0."
    elif any(pair.n >= FEWEST_TO_CLAIM for pair in pairs):
        where = f" on {FEWEST_TO_CLAIM} or more questions" if too_few else ""
        said += f"\nNo difference's interval{where} excludes 0: no difference one could claim."
    if too_few:
        said += f"\nFewer than {FEWEST_TO_CLAIM} questions: too few for a claim."
    return said


def _distinct_names(runs: Sequence[Results]) -> list[str]:
    names = [run.run or "run" for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({position})" for position, name in enumerate(names, start=1)]


def _split_name(split: str) -> str:
    return {"val": "held-out", "train": "training"}.get(split, split)
