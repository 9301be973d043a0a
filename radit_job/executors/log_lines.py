"""The lines that a stage prints, as events; the same in a process's output, a pod's log and a file that is kept."""

from __future__ import annotations

import json
from typing import Any


def parse_line(line: bytes) -> dict[str, Any]:
    """One line of output as an event; what a library printed becomes an event of its own kind."""
    text = line.decode(errors="replace").rstrip("\n")
    if text.startswith("{"):
        try:
            event = json.loads(text)
            if isinstance(event, dict) and "event" in event:
                return event
        except ValueError:
            pass
    return {"event": "output", "text": text}


def format_line(event: dict[str, Any]) -> bytes:
    """The event as a line of a log that is kept; the inverse of `parse_line`."""
    return (json.dumps(event, ensure_ascii=False) + "\n").encode(errors="replace")
