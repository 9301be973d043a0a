"""The latency benchmark for a terminal of 80 columns. Imports rich alone: the controller uses it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.box import Box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from radit_job.report.latency import (
    ENGINE_NAMES,
    PART_MEANINGS,
    SERVED_MEANINGS,
    TASK_MEANINGS,
    TASK_NAMES,
    Latency,
    LatencyRow,
    asked_text,
    facts,
    failures,
    machine_text,
    percent,
    rate,
    seconds,
    shown_parts,
)

WIDTH = 80
# One thin line under the header and between the blocks, and nothing else.
_LINES = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n")

Column = tuple[str, Callable[[LatencyRow], str]]

TIMES: tuple[Column, ...] = (
    ("p50 s", lambda row: seconds(row.p50_s)),
    ("p90 s", lambda row: seconds(row.p90_s)),
    ("p99 s", lambda row: seconds(row.p99_s)),
    ("first token s", lambda row: seconds(row.first_token_s)),
    ("tokens a second", lambda row: rate(row.completion_tokens_per_s)),
    ("queries a second", lambda row: seconds(row.queries_per_s)),
)
FLOOR: tuple[Column, ...] = (
    ("floor s", lambda row: seconds(row.floor_total_s)),
    ("times floor", lambda row: "–" if row.times_floor is None else f"{row.times_floor:.1f}"),
)
COUNTS: tuple[Column, ...] = (
    ("LLM calls", lambda row: rate(row.n_llm_calls)),
    ("tok. in", lambda row: rate(row.n_prompt_tokens)),
    ("tok. out", lambda row: rate(row.n_completion_tokens)),
)


def latency_table(plain: Mapping[str, Any], *, run: str = "") -> RenderableType:
    """How long each task takes per engine and number of clients, where the time goes, and what follows from it.

    Args:
        plain: latency.json.
    """
    latency = Latency(plain)
    parts = shown_parts(latency.rows)
    shares: list[Column] = [(part, _share(part)) for part in parts]
    has_floor = any(row.floor_s for row in latency.rows)
    return Group(
        *_head(latency, run),
        _table([*TIMES, *(FLOOR if has_floor else ())], latency),
        Text("\nwhere the time goes, % of the mean", style="bold"),
        _table([*COUNTS, *shares], latency),
        Text("\n" + "\n".join(map(_wrapped, _legend(latency, parts, has_floor=has_floor))), style="dim"),
        *_notes(latency),
    )


def _share(part: str) -> Callable[[LatencyRow], str]:
    return lambda row: percent(row.share(part) or None)  # exactly none of it is no part of that task


def _head(latency: Latency, run: str) -> Iterator[Text]:
    found = facts(latency)
    yield Text(f"{run}: {found['language model']}" if run else found["language model"], style="bold")
    about = [f"{asked_text(latency)}."]
    about += [f"Context: {found['context']}." if "context" in found else "", f"Answers: {found['answers']}."]
    about += [f"Machine: {machine_text(latency)}." if latency.machine else ""]
    about += [f"Peak memory: {found['peak memory']}." if "peak memory" in found else ""]
    yield Text(_wrapped(about) + "\n", style="dim")


def _table(columns: Sequence[Column], latency: Latency) -> Table:
    """A block per engine; a task is named once, in front of its numbers of clients."""
    table = Table(box=_LINES, padding=0, show_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("clients", justify="right")
    for name, figure_of in columns:
        shown = [_ascii(figure_of(row)) for row in latency.rows]
        table.add_column(name, justify="right", width=max(len(text) for text in [*shown, *name.split()]))
    for position, engine in enumerate(latency.engines):
        if position:
            table.add_section()
        table.add_row(Text(ENGINE_NAMES.get(engine, engine), style="bold"))
        for task in latency.tasks(engine):
            rows = [row for row in latency.rows if (row.engine, row.task) == (engine, task)]
            for nth, row in enumerate(rows):
                table.add_row(
                    Text(task if nth == 0 else ""), str(row.concurrency), *(_ascii(of(row)) for _, of in columns)
                )
    return table


def _ascii(figure: str) -> str:
    """So that it can be pasted anywhere."""
    return figure.replace("–", "-").replace("< 1", "<1")


def _legend(latency: Latency, parts: Sequence[str], *, has_floor: bool) -> Iterator[list[str]]:
    """What the names mean, in paragraphs: tasks, figures, parts."""
    meanings = SERVED_MEANINGS if latency.is_served else PART_MEANINGS
    tasks = dict.fromkeys(row.task for row in latency.rows)
    yield [f"{task}: {TASK_MEANINGS[task]}." for task in tasks if task in TASK_MEANINGS]
    floor = "floor: what the machine's bandwidth and arithmetic allow for this model, prompt and answer."
    yield ["tokens a second: of all clients together.", floor if has_floor else ""]
    yield [f"{part}: {meanings[part]}." for part in parts]


def _notes(latency: Latency) -> Iterator[Text]:
    if failed := failures(latency):
        yield Text(_wrapped(["failed, in no figure:", "; ".join(failed) + "."]), style="yellow")
    if latency.readings:
        yield Text("\n" + "\n".join(_item(text) for text in latency.readings))
    if latency.warnings:
        yield Text("\n" + "\n".join(_item(f"warning: {text}") for text in latency.warnings), style="yellow")


def _wrapped(sentences: Sequence[str]) -> str:
    return textwrap.fill(" ".join(filter(None, sentences)), WIDTH)


def _item(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ")


def calls_text(calls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every call of one repetition with its prompt and its completion, as the model got and gave them.

    Args:
        calls: the rows of latency/calls.jsonl.
    """
    for call in calls:
        engine, task = str(call.get("engine")), str(call.get("task"))
        yield f"── {ENGINE_NAMES.get(engine, engine)}, {TASK_NAMES.get(task, task)}: {call.get('question', '')}"
        yield f"prompt{_tokens(call.get('n_prompt_tokens'))}:"
        yield textwrap.indent(str(call.get("prompt", "")), "  ")
        yield f"completion{_tokens(call.get('n_completion_tokens'))}:"
        yield textwrap.indent(str(call.get("completion", "")), "  ") + "\n"


def _tokens(count: int | None) -> str:
    return "" if count is None else f" ({count:,} tokens)"
