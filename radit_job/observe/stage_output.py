"""What a stage's process says: one JSON line per event on standard output, and its error where Kubernetes looks."""

from __future__ import annotations

import bisect
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from radit_job.errors import RaditError
from radit_job.observe.events import send_events_to

TERMINATION_BYTES = 4096  # more of a terminationMessagePath Kubernetes does not read


class StageOutput:
    """Labels every event with what it belongs to; `labels` may grow while the process finds out."""

    def __init__(self, **labels: Any) -> None:
        self.labels = labels
        send_events_to(self.show)

    def show(self, event: dict[str, Any]) -> None:
        """Print one event."""
        line = json.dumps({"time_s": round(time.time(), 3), **self.labels, **event}, ensure_ascii=False, default=str)
        sys.stdout.write(line.encode(errors="replace").decode() + "\n")  # at once: other threads write, too
        sys.stdout.flush()

    def show_error(self, error: RaditError, **more: Any) -> None:
        """Print the process's last event, and leave it in the file that RADIT_TERMINATION_LOG names."""
        event = {"event": "error", **error.to_json()}
        if path := os.environ.get("RADIT_TERMINATION_LOG"):
            with suppress(OSError):
                Path(path).write_bytes(shortened({**self.labels, **event}, TERMINATION_BYTES))
        with suppress(OSError):  # nobody reads any more; the exit code still speaks
            self.show({**event, **more})


def shortened(error: dict[str, Any], n_bytes: int) -> bytes:
    """The error as JSON of at most so many bytes: its texts are cut, never the JSON."""
    for name in ("what", "todo", "where"):
        if len(_bytes(error)) <= n_bytes:
            break
        error = _with_cut(error, name, n_bytes)
    return _bytes(error)


def _with_cut(error: dict[str, Any], name: str, n_bytes: int) -> dict[str, Any]:
    """The error with as much of one text as fits; none of it where even that is too much."""
    text = str(error.get(name) or "")[:n_bytes]
    n_fitting = bisect.bisect_right(
        range(len(text) + 1), n_bytes, key=lambda n: len(_bytes({**error, name: f"{text[:n]}…"}))
    )
    return {**error, name: f"{text[: n_fitting - 1]}…" if n_fitting else ""}


def _bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace")
