"""What a controller has yet to look at."""

from __future__ import annotations

import time


class WorkQueue:
    """Keys, each to be looked at now or at a later time; in the order in which they came due."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, str], float] = {}

    def add(self, key: tuple[str, str], delay_s: float = 0.0) -> None:
        """Look at a key after a delay, or earlier if that was asked for already."""
        at = time.monotonic() + delay_s
        self._due[key] = min(at, self._due.get(key, at))

    def pop_due(self) -> list[tuple[str, str]]:
        """What is due by now; it is no longer in the queue."""
        now = time.monotonic()
        due = sorted((at, key) for key, at in self._due.items() if at <= now)
        for _, key in due:
            del self._due[key]
        return [key for _, key in due]

    def next_s(self) -> float | None:
        """Seconds until something is due."""
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None
