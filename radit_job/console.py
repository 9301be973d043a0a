"""What the commands print for people: tables, states, log lines. Nothing is decided here."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from radit_job.errors import ConfigError
from radit_job.observe.events import progress_text
from radit_job.observe.terminal import condition_text, fields_of
from radit_job.pipeline.names import run_file
from radit_job.pipeline.outputs import latency_calls
from radit_job.pipeline.runs import (
    RunRecord,
    StageRecord,
    load_latency,
    load_results,
    load_run,
    log_events,
    require_run,
)
from radit_job.pipeline.spending import read_books, spent_line, summary
from radit_job.report.latency_table import calls_text, latency_table
from radit_job.report.terminal import results_csv, results_table, runs_table
from radit_job.store import ObjectStore

ENDED_WELL = ("done", "cached")


def print_end(store: ObjectStore, record: RunRecord, seconds: float) -> None:
    """The table, if the run came to it, and where the page is."""
    if record.stages["evaluate"].status in ENDED_WELL:
        print_results([load_results(store, record.run)], "table")
    else:
        print_spent(store, record.run)
    n_cached = sum(item.status == "cached" for item in record.stages.values())
    n_ran = sum(item.status == "done" for item in record.stages.values())
    typer.echo(f"{record.run}: {n_ran} {'stage' if n_ran == 1 else 'stages'} ran, {n_cached} cached, {seconds:.1f} s")
    if record.stages["report"].status in ENDED_WELL:
        typer.echo(f"report: {place(store, record.run, 'report.html')}")


def print_spent(store: ObjectStore, run: str) -> None:
    """What a run has spent so far, in one line; nothing where it pays for nothing."""
    record = load_run(store, run)
    line = spent_line(summary(record, read_books(store, run))) if record else ""
    if line:
        typer.echo(line)


def place(store: ObjectStore, run: str, name: str) -> str:
    """Where a file of a run lies, for people."""
    return f"{store.url.partition('?')[0].rstrip('/')}/{run_file(run, name)}"


def warn_if_older(store: ObjectStore, run: str) -> None:
    """Results stay until the next ones come; a run that is not through since must say so."""
    status = require_run(store, run).status
    if status != "done":
        typer.echo(f"note: run {run} is {status} now; this is what it last came to", err=True)


def print_results(found: list[dict[str, Any]], form: str) -> None:
    """One run's results or several side by side, as table, json or csv."""
    if form == "json":
        typer.echo(json.dumps(found[0] if len(found) == 1 else found, indent=1, ensure_ascii=False))
    elif form == "csv":
        typer.echo(results_csv(*found), nl=False)
    elif form == "table":
        Console().print(results_table(found[0]) if len(found) == 1 else runs_table(found))
        for plain in found:  # results of an older version tell nothing of it
            line = spent_line(plain["spent"]) if "spent" in plain else ""
            if line:
                typer.echo(line if len(found) == 1 else f"{plain['run']}: {line[0].lower()}{line[1:]}")
    else:
        raise ConfigError(f"unknown format {form!r}", where="--format", todo="Choose table, json or csv.")


def print_latency(store: ObjectStore, run: str, *, show_prompts: bool) -> None:
    """What the run's benchmark last measured; with `show_prompts` the calls of one repetition before it."""
    plain = load_latency(store, run)
    if show_prompts:
        for text in calls_text(latency_calls(store, require_run(store, run))):
            typer.echo(text)
    Console(highlight=False).print(latency_table(plain, run=run))


def status_lines(store: ObjectStore, record: RunRecord, *, cut_off: bool) -> list[str]:
    """A line for the run and one for each stage; for one that runs, how it stands."""
    state = "cut off; the same `radit run` goes on from there" if cut_off else record.status
    lines = [f"{record.run}: {state}, started {record.started_at}"]
    for item in record.stages.values():
        status, says = _standing(store, record, item) if item.status == "running" else (item.status, item.why)
        seconds = f"{item.seconds:8.1f} s" if item.seconds is not None and item.status != "running" else " " * 10
        lines += wrapped(f"  {item.stage:<12} {status:<8} {seconds}  ", says)
    line = spent_line(summary(record, read_books(store, record.run)))
    return [*lines, line] if line else lines


def _standing(store: ObjectStore, record: RunRecord, item: StageRecord) -> tuple[str, str]:
    """What a stage that was started does, and how far it is or why it waits."""
    if item.condition is not None:
        return item.condition["phase"], condition_text(item.condition)
    if record.executor != "local":
        return item.status, item.why
    events = log_events(store, record.run, item.stage)
    progress = [event for event in events if event.get("event") == "progress"]
    if not progress:
        return item.status, item.why
    return item.status, progress_text(progress[-1])


@contextmanager
def show_status() -> Iterator[Callable[[list[str]], None]]:
    """Something to show states with: redrawn in place on a terminal; elsewhere printed when they changed."""
    shown: list[str] = []
    if not sys.stdout.isatty():

        def show(lines: list[str]) -> None:
            nonlocal shown
            if lines != shown:
                typer.echo("\n".join(lines))
                shown = lines

        yield show
        return
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n".join(lines)), refresh=True)


def print_event(event: dict[str, Any]) -> bool:
    """One event of a stage's log as a line for the eye; False for what is not shown: `radit status` tells progress."""
    if event["event"] == "progress":
        return False
    if event["event"] == "output":
        typer.echo(event["text"])
        return True
    clock = time.strftime("%H:%M:%S", time.localtime(event.get("time_s", 0)))
    says = event.get("message") or event.get("what") or event["event"]
    typer.echo(f"{clock} {event.get('level', event['event']):<8} {says} {fields_of(event)}".rstrip())
    if "traceback" in event:
        typer.echo(event["traceback"])
    return True


def print_wrapped(start: str, text: str) -> None:
    """A text in a column of its own behind `start`."""
    typer.echo("\n".join(wrapped(start, text)))


def wrapped(start: str, text: str) -> list[str]:
    """The lines of a text in a column of its own behind `start`."""
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    lines = [line for part in text.splitlines() or [""] for line in textwrap.wrap(part, width - len(start)) or [""]]
    return [((start if i == 0 else " " * len(start)) + line).rstrip() for i, line in enumerate(lines)]
