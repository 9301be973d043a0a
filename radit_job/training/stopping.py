"""Being told to stop (SIGTERM) in the middle of training: a checkpoint first, then the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked this process to stop; who trains looks between two passes, and keeps a checkpoint."""

    def __init__(self) -> None:
        self.is_made = False
        self.is_obeyed = False
        self._obey: Callable[[], None] = lambda: None  # outside the main thread

    def obey(self) -> None:
        """Do what the signal would have done at once: its handler raises the exception that ends the stage."""
        self.is_obeyed = True
        self._obey()


@contextmanager
def stop_request(*, patient: bool = False) -> Iterator[StopRequest]:
    """SIGTERM sets `is_made` instead of ending the block; a second one ends it where it is, unless it is patient.

    A request that nobody has obeyed is obeyed at the block's end, if that is reached without an error.
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
    if request.is_made and not request.is_obeyed:
        request.obey()
