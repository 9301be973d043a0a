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
CURVE_PX = 260


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
    scale = _Scale(ticks[0], ticks[-1])
    parts: list[str] = []
    grid: list[str] = []
    y = 6 if not mark_label else 20
    mark_top = y - 7
    for group in groups:
        if group.heading:
            parts.append(f'<text class="heading" x="0" y="{y + 16}">{escape(group.heading)}</text>')
            y += HEADING_PX
        height = ROW_PX * len(group.rows)
        grid += [_vertical(scale.percent(tick), y, y + height, "grid") for tick in ticks]
        if mark is not None:
            grid.append(_vertical(scale.percent(mark), y, y + height, "mark"))
        for row in group.rows:
            parts.append(_span(row, y + ROW_PX / 2, scale))
            y += ROW_PX
        y += 8
    if mark is not None and mark_label:
        grid.append(_text(scale.percent(mark), mark_top, mark_label, "tick", "middle"))
    labels = [_text(scale.percent(tick), y + 15, tick_text(tick, ticks), "tick", "middle") for tick in ticks]
    if axis_label:
        labels.append(_text(50, y + AXIS_PX + 2, axis_label, "tick", "middle"))
    height = y + AXIS_PX + (6 if axis_label else -8)
    return _svg("interval-plot", height, title, description, [*grid, *parts, *labels])


def _span(row: Span, y: float, scale: _Scale) -> str:
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


def loss_curve(
    train: Sequence[tuple[float, float]],
    dev: Sequence[tuple[float, float]],
    *,
    best_step: float | None,
    title: str,
    description: str,
    smooth: bool = True,
    fit_every_point: bool = False,
) -> str:
    """Loss over steps: training loss, faint and smoothed; held-out loss with its points; the kept checkpoint marked.

    Args:
        train: (step, loss in nats per token) of the optimizer's steps.
        dev: the same of the held-out evaluations.
        best_step: the step whose weights were kept.
        smooth: False draws the training loss as it is, with its points: for a few of the steps alone.
        fit_every_point: the axis reaches the scattered losses of single steps too.
    """
    curve = smoothed(train) if smooth else list(train)
    # Single steps scatter far beyond the curve; the axis follows what is read off it.
    losses = [loss for _, loss in [*curve, *dev, *(train if fit_every_point else ())]]
    if not losses:
        return ""
    y_ticks = nice_ticks(min(losses), max(losses), wanted=5)
    last_step = max(1.0, best_step or 0.0, *(step for step, _ in [*train, *dev]))
    x_ticks = [tick for tick in nice_ticks(0, last_step, wanted=6) if tick <= last_step]
    across, up = _Scale(0, last_step), _Scale(y_ticks[0], y_ticks[-1])

    def y_px(loss: float) -> float:
        return CURVE_PX * (1 - up.percent(loss) / 100)

    grid = [
        _horizontal(y_px(tick), "grid") + _text(0, y_px(tick) + 4, tick_text(tick, y_ticks), "tick", "end", dx=-8)
        for tick in y_ticks
    ]
    labels = [
        _text(across.percent(tick), CURVE_PX + 18, tick_text(tick, x_ticks), "tick", "middle") for tick in x_ticks
    ]
    labels.append(_text(50, CURVE_PX + 38, "optimizer step", "tick", "middle"))
    marks = []
    if best_step is not None:
        x = across.percent(best_step)
        anchor, dx = ("end", -6) if x > 50 else ("start", 6)
        marks = [_vertical(x, 0, CURVE_PX, "mark"), _text(x, 12, f"kept: step {best_step:g}", "tick", anchor, dx=dx)]
    lines = [
        _polyline(train if smooth else (), across, up, "train-raw"),
        _polyline(curve, across, up, "train"),
        _polyline(dev, across, up, "dev"),
    ]
    # The lines live in a stretched inner viewport, because polylines take no percentages.
    stretched = f'width="100%" height="{CURVE_PX}" viewBox="0 0 100 100" preserveAspectRatio="none"'
    plot = f"<svg {stretched}>{''.join(lines)}</svg>"
    points = [
        f'<circle class="{css}-point" cx="{across.percent(step):.2f}%" cy="{y_px(loss):.1f}" r="4">'
        f"<title>step {step:g}: {loss:.3f}</title></circle>"
        for css, shown in (("train", () if smooth else train), ("dev", dev))
        for step, loss in shown
    ]
    return _svg("curve", CURVE_PX + 44, title, description, [*grid, *labels, *marks, plot, *points])


def _polyline(points: Sequence[tuple[float, float]], across: _Scale, up: _Scale, css: str) -> str:
    path = " ".join(f"{across.percent(x):.2f},{100 - up.percent(y):.2f}" for x, y in points)
    return f'<polyline class="{css}" points="{path}"/>' if len(points) > 1 else ""


def bar(share: float, *, css: str = "", label: str = "") -> str:
    """A bar that fills `share` (0 to 1) of its cell; never quite empty, so that a short stage is still seen."""
    width = max(0.5, min(100.0, 100 * share))
    name = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg class="bar {escape(css)}" width="100%" height="10" {name}>'
        '<rect class="track" width="100%" height="10" rx="2"/>'
        f'<rect class="fill" width="{width:.1f}%" height="10" rx="2"/></svg>'
    )


def smoothed(points: Sequence[tuple[float, float]], *, weight: float = 0.85) -> list[tuple[float, float]]:
    """Exponential moving average with Adam's bias correction, so that the first points are not pulled to zero."""
    mean, result = 0.0, []
    for taken, (x, y) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * y
        result.append((x, mean / (1 - weight**taken)))
    return result


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
class _Scale:
    low: float
    high: float

    def percent(self, value: float) -> float:
        """Where a value lies on the axis, from 0 to 100."""
        return 100 * (value - self.low) / (self.high - self.low)


def _svg(css: str, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    identity = "figure-" + re.sub(r"\W+", "-", title.lower())
    return (
        f'<svg class="{css}" width="100%" height="{height:g}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-text">'
        f'<title id="{identity}-title">{escape(title)}</title><desc id="{identity}-text">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _text(x_percent: float, y: float, text: str, css: str, anchor: str, *, dx: float = 0) -> str:
    return (
        f'<text class="{css}" x="{x_percent:.2f}%" y="{y:.1f}" dx="{dx:g}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _vertical(x_percent: float, top: float, bottom: float, css: str) -> str:
    return f'<line class="{css}" x1="{x_percent:.2f}%" x2="{x_percent:.2f}%" y1="{top:g}" y2="{bottom:g}"/>'


def _horizontal(y: float, css: str) -> str:
    return f'<line class="{css}" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
