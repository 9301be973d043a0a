"""Results for a terminal of 80 columns, and as CSV. Imports rich alone: the controller uses it."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import Box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from radit_job.report import judge
from radit_job.report.labels import metric_label
from radit_job.report.results import FEWEST_TO_CLAIM, Difference, Mean, Results

WIDTH = 80
LABEL_WIDTH = 24  # a longer run name is cut
CLEAR = "*"
CSV_FIELDS = ("run", "kind", "arm", "against", "split", "metric", "value", "low", "high", "n", "n_failed")
# One thin line under the header and between the blocks, and nothing else.
_LINES = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n")

Cell = tuple[str, str]  # the figure, and under it its interval


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that stand together under one heading; a cell is looked up by its metric."""

    heading: str
    rows: Sequence[tuple[str, Callable[[str], Cell]]]


def results_table(results: Mapping[str, Any], *, split: str = "val") -> RenderableType:
    """One run in 80 columns: the arms' means with intervals, what differs from base, the retriever's figures."""
    found = Results(dict(results))
    metrics = found.answer_metrics(split)
    if not metrics:
        return Text(f"No results on {_split_name(split)} questions.")
    means = [(arm, _means_of(found, arm, split)) for arm in found.arms]
    pairs = found.shown_pairs(split)
    blocks = [_Block("", means)]
    for against in dict.fromkeys(against for _, against in pairs):
        rows = [(arm, _differences_of(found, (arm, other), split)) for arm, other in pairs if other == against]
        blocks.append(_Block(f"vs {against}", rows))
    title = f"{found.run}: " if found.run else ""
    head = Text(f"{title}{found.n_questions(split)} {_split_name(split)} questions", style="bold")
    return Group(head, *_tables(metrics, blocks), *_retrieval_lines(found, split), *_notes(found, split))


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
        blocks.append(_Block(arm, [(name, _means_of(run, arm, split, with_interval=False)) for name, run in shown]))
    for pair in dict.fromkeys(pair for run in found for pair in run.shown_pairs(split)):
        rows = [
            (name, _differences_of(run, pair, split))
            for name, run in zip(names, found, strict=True)
            if pair in run.shown_pairs(split)
        ]
        blocks.append(_Block(f"{pair[0]} - {pair[1]}", rows))
    counts = ", ".join(f"{name} {run.n_questions(split)}" for name, run in zip(names, found, strict=True))
    head = Text(f"{_split_name(split)} questions: {counts}", style="bold")
    return Group(head, *_tables(metrics, blocks), Text(_legend(found, split), style="dim"))


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


def _tables(metrics: Sequence[str], blocks: Sequence[_Block]) -> Iterator[Table]:
    """As many tables as the metrics need to stay within the width."""
    first = min(
        LABEL_WIDTH,
        max(cell_len(label) for block in blocks for label in [block.heading, *(row[0] for row in block.rows)]),
    )
    columns: list[str] = []
    used = first
    for metric in metrics:
        width = 1 + _column_width(metric, blocks)
        if columns and used + width > WIDTH:
            yield _table(columns, blocks, first)
            columns, used = [], first
        columns.append(metric)
        used += width
    yield _table(columns, blocks, first)


def _table(metrics: Sequence[str], blocks: Sequence[_Block], first: int) -> Table:
    table = Table(box=_LINES, padding=0, show_edge=False, header_style="bold")
    table.add_column("", no_wrap=True, overflow="ellipsis", width=first)
    for metric in metrics:
        table.add_column(_header(metric), justify="right", width=_column_width(metric, blocks))
    for position, block in enumerate(blocks):
        if position:
            table.add_section()
        if block.heading:
            table.add_row(Text(block.heading, style="bold"))
        for label, cell_of in block.rows:
            table.add_row(Text(label), *(_cell_text(cell_of(metric)) for metric in metrics))
    return table


def _header(metric: str) -> str:
    label = metric_label(metric)
    return f"{label.short} (lower)" if label.better == "lower" else label.short


def _column_width(metric: str, blocks: Sequence[_Block]) -> int:
    lines = [line for block in blocks for _, cell_of in block.rows for line in cell_of(metric)]
    return max(cell_len(text) for text in [*lines, *_header(metric).split()])


def _cell_text(cell: Cell) -> Text:
    figure, interval = cell
    text = Text(figure, style="bold" if figure.endswith(CLEAR) else "")
    return text.append(f"\n{interval}", style="dim") if interval else text


def _means_of(results: Results, arm: str, split: str, *, with_interval: bool = True) -> Callable[[str], Cell]:
    def cell(metric: str) -> Cell:
        row = results.mean(arm, metric, split)
        # The blank stands where a difference has its mark, so that the digits of a column stand below each other.
        return (_plain(row.mean, metric) + " ", _interval(row, metric) if with_interval else "") if row else ("- ", "")

    return cell


def _differences_of(results: Results, pair: tuple[str, str], split: str) -> Callable[[str], Cell]:
    def cell(metric: str) -> Cell:
        row = results.difference(*pair, metric, split)
        if row is None:
            return "- ", ""
        return _plain(row.delta, metric, signed=True) + (CLEAR if row.is_clear else " "), _interval(row, metric)

    return cell


def _plain(value: float | None, metric: str, *, signed: bool = False) -> str:
    """ASCII, so that it can be pasted anywhere."""
    if value is None:
        return "-"
    return _without_minus_zero(f"{value:{'+' if signed else ''}.{1 if _is_words(metric) else 2}f}")


def _interval(row: Mean | Difference, metric: str) -> str:
    if row.low is None or row.high is None:
        return ""
    ends = (_without_minus_zero(f"{value:.{0 if _is_words(metric) else 2}f}") for value in (row.low, row.high))
    # Without the zero before the point, or five metrics do not fit.
    return ", ".join(end.replace("0.", ".", 1) if end.startswith(("0.", "-0.")) else end for end in ends)


def _is_words(metric: str) -> bool:
    return metric_label(metric).unit == "words"


def _without_minus_zero(text: str) -> str:
    return text if float(text) else text.lstrip("+-")


def _retrieval_lines(results: Results, split: str) -> Iterator[Text]:
    rows = results.retrieval_rows(split)
    if not rows:
        return
    figures = [
        f"{metric_label(row.metric).name} {row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]"
        for row, _ in rows
        if row.low is not None
    ]
    yield Text(f"\nretrieval, n = {rows[0][0].n}: " + "  ".join(figures))


def _notes(results: Results, split: str) -> Iterator[Text]:
    yield Text("\n" + _legend([results], split), style="dim")
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


def _legend(runs: Sequence[Results], split: str) -> str:
    pairs = [pair for run in runs for pair in run.answer_pairs(split)]
    too_few = any(run.has_too_few(split) for run in runs)
    said = "Intervals: 95 %. (lower): lower is better."
    if any(pair.is_clear for pair in pairs):
        said += f" {CLEAR}: the difference's interval excludes 0."
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
