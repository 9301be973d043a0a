"""Stacked horizontal bars: what a whole is made of, several of them on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from radit_job.report.figures import (
    AXIS_PX,
    HEADING_PX,
    ROW_PX,
    Scale,
    figure,
    nice_ticks,
    text_at,
    tick_text,
    vertical,
)

BAR_PX = 15


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a bar."""

    css: str  # class that colours it
    value: float
    text: str  # what pointing at it shows


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its segments from left to right, and a mark across, such as the least that is possible."""

    label: str
    segments: tuple[Segment, ...]
    text: str  # the figures in words, shown at the row's end
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars under one heading."""

    heading: str
    bars: tuple[Bar, ...]


def stacked_bars(groups: Sequence[BarGroup], *, title: str, description: str, axis_label: str) -> str:
    """All bars on one axis that begins at zero; empty without a bar."""
    ends = [max(_length(bar), bar.mark or 0.0) for group in groups for bar in group.bars]
    if not ends or max(ends) <= 0:
        return ""
    ticks = nice_ticks(0.0, max(ends), wanted=8)
    scale = Scale(0.0, ticks[-1])
    grid: list[str] = []
    parts: list[str] = []
    y = 6.0
    for group in groups:
        parts.append(f'<text class="heading" x="0" y="{y + 16:g}">{escape(group.heading)}</text>')
        y += HEADING_PX
        height = ROW_PX * len(group.bars)
        grid += [vertical(scale.percent(tick), y, y + height, "grid") for tick in ticks]
        for bar in group.bars:
            parts.append(_drawn(bar, y + ROW_PX / 2, scale))
            y += ROW_PX
        y += 8
    labels = [text_at(scale.percent(tick), y + 15, tick_text(tick, ticks), "tick", "middle") for tick in ticks]
    labels.append(text_at(50, y + AXIS_PX + 2, axis_label, "tick", "middle"))
    return figure("interval-plot stacked", y + AXIS_PX + 6, title, description, [*grid, *parts, *labels])


def _length(bar: Bar) -> float:
    return sum(segment.value for segment in bar.segments)


def _drawn(bar: Bar, y: float, scale: Scale) -> str:
    top, begin = y - BAR_PX / 2, 0.0
    drawn = [f'<text class="label" x="0" y="{y + 4:g}" dx="-10" text-anchor="end">{escape(bar.label)}</text>']
    for segment in bar.segments:
        left, width = scale.percent(begin), scale.percent(segment.value)
        drawn.append(
            f'<rect class="{escape(segment.css)}" x="{left:.3f}%" width="{width:.3f}%" y="{top:g}" height="{BAR_PX}">'
            f"<title>{escape(bar.label)}: {escape(segment.text)}</title></rect>"
        )
        begin += segment.value
    if bar.mark is not None:
        x = scale.percent(bar.mark)
        drawn.append(vertical(x, top - 3, top + BAR_PX + 3, "floor"))
    drawn.append(f'<text class="value" x="100%" y="{y + 4:g}" dx="12">{escape(bar.text)}</text>')
    return f"<g>{''.join(drawn)}</g>"
