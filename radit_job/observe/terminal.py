"""Events as a person or a program reads them: progress bars on a terminal, one JSON line per event otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from radit_job.observe.events import Event, progress_text, send_events_to

FIGURES = ("loss", "dev_loss", "tokens_per_s")  # what a progress event may carry for the eye
NAME_COLUMNS = 12
RESERVED = {"time_s", "event", "level", "message", "stage", "traceback", "type", "what", "where", "todo", "exit_code"}


def show_events(stream: TextIO | None = None) -> AbstractContextManager[None]:
    """Show this process's events until the context ends."""
    stream = stream or sys.stderr
    return TerminalDisplay(stream) if stream.isatty() else JsonLines(stream)


class JsonLines(AbstractContextManager[None]):
    """One JSON object per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        send_events_to(self._write)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        send_events_to(lambda event: None)

    def _write(self, event: Event) -> None:
        line = json.dumps(event, ensure_ascii=False, default=str)
        self._stream.write(line + "\n")  # at once: the logs of several pods are followed by several threads
        self._stream.flush()


class TerminalDisplay(AbstractContextManager[None]):
    """A line for each stage that ended, a bar for each one that runs."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<" + str(NAME_COLUMNS) + "}"),
            BarColumn(bar_width=16),
            TextColumn("{task.description}", justify="left"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, str] = {}  # what was last said of a stage that waits or was tried again

    def __enter__(self) -> None:
        self._bars.start()
        send_events_to(self._show)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        send_events_to(lambda event: None)

    def _show(self, event: Event) -> None:
        stage = event.get("stage")
        kind = event["event"]
        if kind == "stage_started":
            self._tasks[event["stage"]] = self._bars.add_task(_clip(event["why"]), total=None, stage=stage)
        elif kind == "progress" and stage in self._tasks and "shard" not in event:  # one bar cannot tell of many pods
            self._bars.update(
                self._tasks[stage], total=event["total"], completed=event["done"], description=_progress_text(event)
            )
        elif kind == "stage_condition" and stage in self._tasks:
            self._note(event)
        elif kind in ("stage_done", "stage_failed", "stage_cached"):
            self._end(event)
        elif kind == "log" and event["level"] == "warning":
            self._console.print(f"[yellow]![/] {stage or '':<{NAME_COLUMNS}} {_escape(event['message'])}")

    def _note(self, event: Event) -> None:
        """A bar tells how far it is; why something waits or is tried again stays on the screen as a line."""
        stage, n_shards = event["stage"], event["n_shards"]
        text = condition_text(event)
        if event["phase"] == "running" and n_shards > 1:
            self._bars.update(self._tasks[stage], total=n_shards, completed=event["n_shards_done"])
        self._bars.update(self._tasks[stage], description=_clip(f"{event['phase']} {text}"))
        lasting = text if event["phase"] != "running" else f"retry {event['n_retries']}" if event["n_retries"] else ""
        if lasting and self._told.get(stage) != lasting:
            self._told[stage] = lasting
            self._console.print(f"[yellow]…[/] {stage:<{NAME_COLUMNS}} {event['phase']}: {_escape(text)}")

    def _end(self, event: Event) -> None:
        stage = event["stage"]
        self._told.pop(stage, None)
        if stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))
        name = f"{stage:<{NAME_COLUMNS}}"
        if event["event"] == "stage_done":
            self._console.print(f"[green]✓[/] {name} {event['seconds']:7.1f} s  {_escape(_counters_text(event))}")
        elif event["event"] == "stage_cached":
            self._console.print(f"[dim]= {name}  cached[/]")
        else:
            self._console.print(f"[red]✗[/] {name}  {_escape(event['error']['what'].splitlines()[0])}")


def _progress_text(event: Event) -> str:
    figures = [f"{name} {event[name]:.3g}" for name in FIGURES if isinstance(event.get(name), (int, float))]
    return _clip(" ".join([progress_text(event), *figures]))


def _counters_text(event: Event) -> str:
    counters: dict[str, Any] = event.get("counters") or {}
    shown = [
        f"{name.removeprefix('n_')} {value:,.4g}"
        if isinstance(value, float)
        else f"{name.removeprefix('n_')} {value:,}"
        for name, value in counters.items()
    ]
    text = ""
    for part in shown:  # whole figures only, as many as an 80-column line takes
        if len(text) + len(part) > 80 - NAME_COLUMNS - 16:
            break
        text = f"{text}, {part}" if text else part
    return text.replace("_", " ")


def _clip(text: str) -> str:
    return _escape(text if len(text) <= 36 else text[:35] + "…")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def condition_text(condition: Mapping[str, Any]) -> str:
    """How a stage that was started stands, from the fields of jobs.Condition."""
    parts = [str(condition["says"])]
    if condition["n_shards"] > 1:
        parts.insert(0, f"{condition['n_shards_done']} of {condition['n_shards']} shards")
    if condition["n_retries"]:
        parts.append(f"retry {condition['n_retries']}")
    return ", ".join(part for part in parts if part)


def fields_of(event: Event) -> str:
    """An event's own fields as `name=value` words, for `radit logs`."""
    return " ".join(f"{name}={value}" for name, value in event.items() if name not in RESERVED)
