"""Figures as inline SVG from plain numbers, without a plotting library.

Widths are percentages and heights pixels, so one figure fits a phone and a wide screen without scaling its text.
Colours come from the page's CSS classes (`arm-lm`, ...), so that a figure follows the light or dark theme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW_PX = 24
HEADING_PX = 26
AXIS_PX = 30


@dataclass(frozen=True, slots=True)
class Span:
    """One row of an interval plot: a point and its interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    css: str  # class that colours the row
    text: str = ""  # the figures in words, shown at the row's end
    is_hollow: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under one heading, such as a metric."""

    heading: str
    rows: tuple[Span, ...]


def interval_plot(
    groups: Sequence[Group],
    *,
    title: str,
    description: str,
    mark: float | None = None,
    mark_label: str = "",
    axis_label: str = "",
) -> str:
    """Points with intervals on one shared axis (a forest plot); `mark` is a line across, such as zero."""
    values = [x for group in groups for row in group.rows for x in (row.value, row.low, row.high) if x is not None]
    if not values:
        return ""
    if mark is not None:
        values.append(mark)
    ticks = nice_ticks(min(values), max(values))
    scale = Scale(ticks[0], ticks[-1])
    parts: list[str] = []
    grid: list[str] = []
    y = 6 if not mark_label else 20
    mark_top = y - 7
    for group in groups:
        if group.heading:
            parts.append(f'<text class="heading" x="0" y="{y + 16}">{escape(group.heading)}</text>')
            y += HEADING_PX
        height = ROW_PX * len(group.rows)
        grid += [vertical(scale.percent(tick), y, y + height, "grid") for tick in ticks]
        if mark is not None:
            grid.append(vertical(scale.percent(mark), y, y + height, "mark"))
        for row in group.rows:
            parts.append(_span(row, y + ROW_PX / 2, scale))
            y += ROW_PX
        y += 8
    if mark is not None and mark_label:
        grid.append(text_at(scale.percent(mark), mark_top, mark_label, "tick", "middle"))
    labels = [text_at(scale.percent(tick), y + 15, tick_text(tick, ticks), "tick", "middle") for tick in ticks]
    if axis_label:
        labels.append(text_at(50, y + AXIS_PX + 2, axis_label, "tick", "middle"))
    height = y + AXIS_PX + (6 if axis_label else -8)
    return figure("interval-plot", height, title, description, [*grid, *parts, *labels])


def _span(row: Span, y: float, scale: Scale) -> str:
    x = scale.percent(row.value)
    shape = f'<circle class="point{" hollow" if row.is_hollow else ""}" cx="{x:.2f}%" cy="{y:g}" r="5"/>'
    if row.low is not None and row.high is not None:
        low, high = scale.percent(row.low), scale.percent(row.high)
        shape = f'<line class="whisker" x1="{low:.2f}%" x2="{high:.2f}%" y1="{y:g}" y2="{y:g}"/>' + shape
    hover = f"<title>{escape(row.label)}: {escape(row.text)}</title>"
    return (
        f'<g class="{escape(row.css)}">{hover}'
        f'<text class="label" x="0" y="{y + 4:g}" dx="-10" text-anchor="end">{escape(row.label)}</text>{shape}'
        f'<text class="value" x="100%" y="{y + 4:g}" dx="12">{escape(row.text)}</text></g>'
    )


def bar(share: float, *, css: str = "", label: str = "") -> str:
    """A bar that fills `share` (0 to 1) of its cell; never quite empty, so that a short stage is still seen."""
    width = max(0.5, min(100.0, 100 * share))
    name = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg class="bar {escape(css)}" width="100%" height="10" {name}>'
        '<rect class="track" width="100%" height="10" rx="2"/>'
        f'<rect class="fill" width="{width:.1f}%" height="10" rx="2"/></svg>'
    )


def nice_ticks(low: float, high: float, *, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose low and high; at least two."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_text(tick: float, ticks: Sequence[float]) -> str:
    """A tick with as many decimals as the ticks' distance needs."""
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{tick:.{decimals}f}".replace("-", "\u2212")


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis."""

    low: float
    high: float

    def percent(self, value: float) -> float:
        """Where a value lies on the axis, from 0 to 100."""
        return 100 * (value - self.low) / (self.high - self.low)


def figure(css: str, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    """One figure as inline SVG, with a title and a description for who cannot see it."""
    identity = "figure-" + re.sub(r"\W+", "-", title.lower())
    return (
        f'<svg class="{css}" width="100%" height="{height:g}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-text">'
        f'<title id="{identity}-title">{escape(title)}</title><desc id="{identity}-text">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def text_at(x_percent: float, y: float, text: str, css: str, anchor: str, *, dx: float = 0) -> str:
    """A text at so many percent of the width."""
    return (
        f'<text class="{css}" x="{x_percent:.2f}%" y="{y:.1f}" dx="{dx:g}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def vertical(x_percent: float, top: float, bottom: float, css: str) -> str:
    """A line down the figure."""
    return f'<line class="{css}" x1="{x_percent:.2f}%" x2="{x_percent:.2f}%" y1="{top:g}" y2="{bottom:g}"/>'


def horizontal(y: float, css: str) -> str:
    """A line across the figure."""
    return f'<line class="{css}" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
