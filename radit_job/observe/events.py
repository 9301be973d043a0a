"""Events, and the one place where they leave the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Event = dict[str, Any]  # always: time_s (Unix), event ("log" | "progress" | ...), and the event's own fields
Sink = Callable[[Event], None]

PROGRESS_INTERVAL_S = 0.5  # often enough for an eye, seldom enough for a log


def _nowhere(event: Event) -> None:
    """The default: a library that nobody listens to stays silent."""


_sink: Sink = _nowhere


def send_events_to(sink: Sink) -> None:
    """From now on every event of this process goes to `sink`."""
    global _sink
    _sink = sink


def emit(event: str, **fields: Any) -> None:
    """Send one event; a sink that can no longer be written to (a closed pipe) is let go, and the work goes on."""
    try:
        _sink({"time_s": round(time.time(), 3), "event": event, **fields})
    except OSError:
        send_events_to(_nowhere)


def log(message: str, **fields: Any) -> None:
    """Something worth knowing, with its figures as fields."""
    emit("log", level="info", message=message, **fields)


def warn(message: str, **fields: Any) -> None:
    """Something that a person should look at, though the stage goes on."""
    emit("log", level="warning", message=message, **fields)


class Progress:
    """How far one loop is; made by `progress`."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._figures: dict[str, Any] = {}
        self._sent_at_s = 0.0

    def advance(self, count: int = 1, **figures: Any) -> None:
        """`count` more are done; figures such as `loss=1.23` are shown beside the bar."""
        self.done += count
        self._figures.update(figures)
        now_s = time.monotonic()
        if now_s - self._sent_at_s >= PROGRESS_INTERVAL_S or self.done == self.total:
            self._sent_at_s = now_s
            self._send()

    def _send(self) -> None:
        emit("progress", label=self.label, done=self.done, total=self.total, unit=self.unit, **self._figures)


def progress_text(event: Event) -> str:
    """A progress event in words: `answers 8/40 prompts`."""
    total = f"/{event['total']}" if event.get("total") is not None else ""
    return f"{event.get('label')} {event.get('done')}{total} {event.get('unit')}"


@contextmanager
def progress(label: str, total: int | None = None, unit: str = "items") -> Iterator[Progress]:
    """Tell how far a loop is.

    with progress("answers", total=40, unit="prompts") as bar:
        bar.advance(8)
    """
    bar = Progress(label, total, unit)
    bar._send()
    yield bar
    bar._send()
