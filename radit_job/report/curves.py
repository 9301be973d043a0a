"""Curves: loss over a training's steps, any measure over its epochs, and any measure over the number of clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from radit_job.report.figures import Scale, figure, horizontal, nice_ticks, text_at, tick_text, vertical

STEPS_PX = 260
EPOCHS_PX = 200

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot."""

    css: str  # class that colours it; its points have `<css>-point`
    points: Points
    has_points: bool = True
    name: str = ""  # what a point's tooltip begins with, such as "MRR, "


@dataclass(frozen=True, slots=True)
class _Plot:
    """A plot's lines and what stands around them."""

    lines: Sequence[Line]
    fitted: Sequence[float]  # values that the upright axis reaches
    last_x: float
    x_name: str  # of one unit on the horizontal axis, such as "step"
    x_label: str
    kept: float | None  # where the weights were kept
    height: int
    is_whole: bool = False  # the horizontal axis counts whole things, all of which are few
    x_ticks: Sequence[float] | None = None  # instead of round ones
    x_text: Callable[[float], str] = "{:g}".format  # what a place on the horizontal axis is called


def loss_curve(
    train: Points,
    dev: Points,
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
    raw = [Line("train-raw", train, has_points=False)] if smooth else []
    plot = _Plot(
        lines=[*raw, Line("train", curve, has_points=not smooth), Line("dev", dev)],
        # Single steps scatter far beyond the curve; the axis follows what is read off it.
        fitted=[loss for _, loss in [*curve, *dev, *(train if fit_every_point else ())]],
        last_x=max([1.0, best_step or 0.0, *(step for step, _ in [*train, *dev])]),
        x_name="step",
        x_label="optimizer step",
        kept=best_step,
        height=STEPS_PX,
    )
    return _drawn(plot, title, description)


def epoch_curve(lines: Sequence[Line], *, best_epoch: float | None, title: str, description: str) -> str:
    """Measures of one unit over epochs, from 0, which is before training; the kept epoch marked."""
    points = [point for line in lines for point in line.points]
    plot = _Plot(
        lines=lines,
        fitted=[value for _, value in points],
        last_x=max([1.0, best_epoch or 0.0, *(epoch for epoch, _ in points)]),
        x_name="epoch",
        x_label="epoch (0: before training)",
        kept=best_epoch,
        height=EPOCHS_PX,
        is_whole=True,
    )
    return _drawn(plot, title, description)


def clients_curve(lines: Sequence[Line], *, title: str, description: str) -> str:
    """Measures of one unit over the number of clients (1 or more), whose axis is logarithmic; the other starts at 0."""
    counts = sorted({x for line in lines for x, _ in line.points})
    values = [y for line in lines for _, y in line.points]
    if not values:
        return ""
    plot = _Plot(
        lines=[replace(line, points=[(math.log2(x), y) for x, y in line.points]) for line in lines],
        fitted=[0.0, *values],
        last_x=max(1.0, math.log2(counts[-1])),
        x_name="clients",
        x_label="clients at the same time",
        kept=None,
        height=EPOCHS_PX,
        x_ticks=[math.log2(count) for count in counts],
        x_text=lambda x: f"{2**x:.0f}",
    )
    return _drawn(plot, title, description)


def _drawn(plot: _Plot, title: str, description: str) -> str:
    if not plot.fitted:
        return ""
    y_ticks = nice_ticks(min(plot.fitted), max(plot.fitted), wanted=5)
    x_labels = _x_labels(plot)
    across, up = Scale(0, plot.last_x), Scale(y_ticks[0], y_ticks[-1])

    def y_px(value: float) -> float:
        return plot.height * (1 - up.percent(value) / 100)

    grid = [
        horizontal(y_px(tick), "grid") + text_at(0, y_px(tick) + 4, tick_text(tick, y_ticks), "tick", "end", dx=-8)
        for tick in y_ticks
    ]
    labels = [text_at(across.percent(tick), plot.height + 18, label, "tick", "middle") for tick, label in x_labels]
    labels.append(text_at(50, plot.height + 38, plot.x_label, "tick", "middle"))
    marks = _kept_mark(plot, across.percent(plot.kept)) if plot.kept is not None else []
    lines = "".join(_polyline(line, across, up) for line in plot.lines)
    # The lines live in a stretched inner viewport, because polylines take no percentages.
    stretched = f'width="100%" height="{plot.height}" viewBox="0 0 100 100" preserveAspectRatio="none"'
    points = [
        f'<circle class="{line.css}-point" cx="{across.percent(x):.2f}%" cy="{y_px(y):.1f}" r="4">'
        f"<title>{escape(line.name)}{plot.x_name} {plot.x_text(x)}: {y:.3f}</title></circle>"
        for line in plot.lines
        if line.has_points
        for x, y in line.points
    ]
    return figure(
        "curve",
        plot.height + 44,
        title,
        description,
        [*grid, *labels, *marks, f"<svg {stretched}>{lines}</svg>", *points],
    )


def _x_labels(plot: _Plot) -> list[tuple[float, str]]:
    """Where the horizontal axis has a label, and which."""
    if plot.x_ticks is not None:
        return [(tick, plot.x_text(tick)) for tick in plot.x_ticks]
    ticks = [tick for tick in nice_ticks(0, plot.last_x, wanted=6) if tick <= plot.last_x]
    if plot.is_whole:
        ticks = [tick for tick in ticks if tick == int(tick)]
    return [(tick, tick_text(tick, ticks)) for tick in ticks]


def _kept_mark(plot: _Plot, x: float) -> list[str]:
    anchor, dx = ("end", -6) if x > 50 else ("start", 6)
    text = f"kept: {plot.x_name} {plot.kept:g}"
    return [vertical(x, 0, plot.height, "mark"), text_at(x, 12, text, "tick", anchor, dx=dx)]


def _polyline(line: Line, across: Scale, up: Scale) -> str:
    path = " ".join(f"{across.percent(x):.2f},{100 - up.percent(y):.2f}" for x, y in line.points)
    return f'<polyline class="{line.css}" points="{path}"/>' if len(line.points) > 1 else ""


def smoothed(points: Points, *, weight: float = 0.85) -> list[tuple[float, float]]:
    """Exponential moving average with Adam's bias correction, so that the first points are not pulled to zero."""
    mean, result = 0.0, []
    for taken, (x, y) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * y
        result.append((x, mean / (1 - weight**taken)))
    return result
