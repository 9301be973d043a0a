"""The page's section on latency: two figures, two tables, and what they mean in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_job.report.bars import Bar, BarGroup, Segment, stacked_bars
from radit_job.report.curves import Line, clients_curve
from radit_job.report.latency import (
    PART_MEANINGS,
    SERVED_MEANINGS,
    TASK_MEANINGS,
    TASK_NAMES,
    Latency,
    LatencyRow,
    facts,
    failures,
    percent,
    seconds,
    shown_parts,
)

QUERY = "query"
FIGURES = ("bars", "latency_curve", "throughput_curve")  # the section's fields that are SVG; empty without figures


def section(plain: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figures as SVG, keys to their colours, rows of the tables, sentences and facts; None without a benchmark.

    Args:
        plain: latency/latency.json.
    """
    if plain is None:
        return None
    latency = Latency(plain)
    parts = shown_parts(latency.rows)
    meanings = SERVED_MEANINGS if latency.is_served else PART_MEANINGS
    tasks = list(dict.fromkeys(row.task for row in latency.rows))
    return {
        **_figures(latency, parts),
        "part_keys": [(part, meanings[part]) for part in parts],
        "engine_keys": [(css, name) for css, name, _ in _curve_engines(latency)],
        "task_keys": [(name, TASK_MEANINGS[task]) for task, name in TASK_NAMES.items()],
        "has_floor": any(row.floor_s for row in latency.rows),
        "fewest_clients": min(latency.concurrencies, default=1),
        "rows": sorted(latency.rows, key=lambda row: (tasks.index(row.task), row.concurrency)),  # engines side by side
        "parts": parts,
        "readings": latency.readings,
        "warnings": latency.warnings,
        "failures": failures(latency),
        "facts": facts(latency),
    }


def _figures(latency: Latency, parts: Sequence[str]) -> dict[str, str]:
    return {
        "bars": _bars(latency, parts),
        "latency_curve": _curve(latency, "Seconds of a query", _seconds_lines(latency)),
        "throughput_curve": _curve(latency, "Answer tokens a second", _throughput_lines(latency)),
    }


def _bars(latency: Latency, parts: Sequence[str]) -> str:
    """Where the time of one client goes, per task and engine, with the floor."""
    fewest = min(latency.concurrencies, default=1)
    groups = []
    for task in dict.fromkeys(row.task for row in latency.rows):
        rows = [row for engine in latency.engines if (row := latency.of(engine, task, fewest))]
        if rows:
            groups.append(BarGroup(TASK_NAMES.get(task, task), tuple(_bar(row, parts) for row in rows)))
    said = "; ".join(
        f"{group.heading}: " + ", ".join(f"{bar.label} {bar.text}" for bar in group.bars) for group in groups
    )
    return stacked_bars(groups, title="Where the time of a question goes", description=said, axis_label="seconds, mean")


def _bar(row: LatencyRow, parts: Sequence[str]) -> Bar:
    segments = tuple(
        Segment(f"part-{part}", value, f"{part} {seconds(value)} s, {percent(row.share(part))} %")
        for part in parts
        if (value := (row.parts_s or {}).get(part, 0.0)) > 0
    )
    floor_s = row.floor_total_s
    text = f"{seconds(row.mean_s)} s" + (f", floor {seconds(floor_s)} s" if floor_s is not None else "")
    return Bar(row.engine_name, segments, text, mark=floor_s)


def _curve(latency: Latency, title: str, lines: Sequence[Line]) -> str:
    """Empty with one number of clients alone: a point is no curve."""
    if len(latency.concurrencies) < 2:
        return ""
    said = "; ".join(
        f"{line.name}" + ", ".join(f"{seconds(y)} with {x:g} clients" for x, y in line.points)
        for line in lines
        if line.has_points
    )
    return clients_curve(lines, title=title, description=said)


def _curve_engines(latency: Latency) -> list[tuple[str, str, list[LatencyRow]]]:
    """(CSS class, name, rows of its queries) of each engine."""
    found = []
    for position, engine in enumerate(latency.engines):
        rows = [row for n in latency.concurrencies if (row := latency.of(engine, QUERY, n))]
        if rows:
            found.append((f"engine-{position}", rows[0].engine_name, rows))
    return found


def _seconds_lines(latency: Latency) -> list[Line]:
    lines = []
    for css, name, rows in _curve_engines(latency):
        tail = [(row.concurrency, row.p90_s) for row in rows if row.p90_s is not None]
        lines.append(Line(f"{css} tail", tail, has_points=False))
        lines.append(Line(css, [(row.concurrency, row.p50_s or 0.0) for row in rows], name=f"{name}, median, "))
    return lines


def _throughput_lines(latency: Latency) -> list[Line]:
    lines = []
    for css, name, rows in _curve_engines(latency):
        points = [(r.concurrency, r.completion_tokens_per_s) for r in rows if r.completion_tokens_per_s is not None]
        lines.append(Line(css, points, name=f"{name}, "))
    return lines
