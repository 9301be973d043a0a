"""Being told to stop (SIGTERM) in the middle of training: a checkpoint first, then the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Whether somebody asked this process to stop; who trains looks between two passes, and keeps a checkpoint."""

    def __init__(self) -> None:
        self.is_made = False
        self._obey: Any = None

    def obey(self) -> None:
        """Do what the signal would have done at once: its handler raises the exception that ends the stage."""
        self._obey()


@contextmanager
def stop_request(*, patient: bool = False) -> Iterator[StopRequest]:
    """SIGTERM sets `is_made` instead of ending the block; a second one ends it where it is, unless it is patient.

    Kubernetes sends it terminationGracePeriodSeconds before SIGKILL: on an eviction, a preemption, a drained node.
    Outside the main thread, which alone gets signals, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        request.is_made = True
        if not patient:
            signal.signal(signal.SIGTERM, before)

    def obey() -> None:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)

    request._obey = obey
    signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
