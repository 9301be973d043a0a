"""Troubles on demand: wrong answers, broken connections, slowness."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tests.servers.kubernetes.resources import Request


@dataclass(slots=True)
class Fault:
    """What happens to the next requests that match."""

    left: int
    status: int | None = None  # answer with this status
    retry_after_s: int | None = None
    reset: bool = False  # close the connection without an answer
    takes_effect: bool = False  # do what was asked, and only then fail
    delay_s: float = 0.0
    verb: str | None = None
    resource: str | None = None  # pods, jobs, pods/log

    def matches(self, request: Request) -> bool:
        return self.verb in (None, request.verb) and self.resource in (None, request.full_resource)


class Faults:
    """The faults that are still to come."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Let it happen as often as it says."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Let nothing more happen."""
        with self._lock:
            self._faults.clear()

    def take(self, request: Request) -> list[Fault]:
        """What happens to this request: every delay, and the first of the others."""
        with self._lock:
            matching = [fault for fault in self._faults if fault.left > 0 and fault.matches(request)]
            slow = [fault for fault in matching if fault.delay_s]
            broken = [fault for fault in matching if not fault.delay_s][:1]
            for fault in (*slow, *broken):
                fault.left -= 1
            self._faults = [fault for fault in self._faults if fault.left > 0]
            return slow + broken
