"""Tables of 80 columns for a terminal: figures with their intervals below them, in blocks under one header."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from radit_job.report.labels import metric_label
from radit_job.report.results import Difference, Mean

WIDTH = 80
LABEL_WIDTH = 24  # a longer run name is cut
CLEAR = "*"
# One thin line under the header and between the blocks, and nothing else.
_LINES = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n")

Cell = tuple[str, str]  # the figure, and under it its interval


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that stand together under one heading; a cell is looked up by its metric."""

    heading: str
    rows: Sequence[tuple[str, Callable[[str], Cell]]]


def tables(metrics: Sequence[str], blocks: Sequence[Block]) -> Iterator[Table]:
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


def _table(metrics: Sequence[str], blocks: Sequence[Block], first: int) -> Table:
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


def _column_width(metric: str, blocks: Sequence[Block]) -> int:
    lines = [line for block in blocks for _, cell_of in block.rows for line in cell_of(metric)]
    return max(cell_len(text) for text in [*lines, *_header(metric).split()])


def _cell_text(cell: Cell) -> Text:
    figure, interval = cell
    text = Text(figure, style="bold" if figure.endswith(CLEAR) else "")
    return text.append(f"\n{interval}", style="dim") if interval else text


def mean_cell(row: Mean | None, *, with_interval: bool = True) -> Cell:
    """A mean; a blank stands where a difference has its mark, so that the digits of a column stand below each other."""
    if row is None:
        return "- ", ""
    return _plain(row.mean, row.metric) + " ", _interval(row) if with_interval else ""


def difference_cell(row: Difference | None) -> Cell:
    """A difference, marked where its interval excludes zero."""
    if row is None:
        return "- ", ""
    return _plain(row.delta, row.metric, signed=True) + (CLEAR if row.is_clear else " "), _interval(row)


def _plain(value: float | None, metric: str, *, signed: bool = False) -> str:
    """ASCII, so that it can be pasted anywhere."""
    if value is None:
        return "-"
    return _without_minus_zero(f"{value:{'+' if signed else ''}.{1 if _is_words(metric) else 2}f}")


def _interval(row: Mean | Difference) -> str:
    if row.low is None or row.high is None:
        return ""
    ends = (_without_minus_zero(f"{value:.{0 if _is_words(row.metric) else 2}f}") for value in (row.low, row.high))
    # Without the zero before the point, or five metrics do not fit.
    return ", ".join(end.replace("0.", ".", 1) if end.startswith(("0.", "-0.")) else end for end in ends)


def _is_words(metric: str) -> bool:
    return metric_label(metric).unit == "words"


def _without_minus_zero(text: str) -> str:
    return text if float(text) else text.lstrip("+-")
