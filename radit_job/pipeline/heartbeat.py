"""A sign of life in the store, for `radit status` on another machine, where no lock can be asked."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from radit_job.errors import StoreError
from radit_job.pipeline.names import run_file
from radit_job.store import ObjectStore

BEAT_INTERVAL_S = 20.0
SILENCE_S = 90.0  # a controller that said nothing for so long is gone; clocks may differ by the rest
LAST_BEAT_S = 10.0  # what the end of a run gives to a beat that the store keeps waiting


@contextmanager
def heartbeat(store: ObjectStore, run: str) -> Iterator[None]:
    """Touch an object below `runs/<run>/alive/` now and then, until the context ends.

    Give it a store of little patience: a beat that comes late says nothing.
    """
    ended = threading.Event()
    name = run_file(run, f"alive/{uuid.uuid4().hex[:12]}")  # two controllers may share a run: each has its own

    def beat() -> None:
        while not ended.wait(BEAT_INTERVAL_S):
            _quietly(lambda: store.write(name, b""))

    _quietly(lambda: store.write(name, b""))
    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_BEAT_S)
        _quietly(lambda: store.delete(name))


def is_alive(store: ObjectStore, run: str) -> bool:
    """Whether a controller of this run, on whatever machine, gave a sign of life lately."""
    return any(time.time() - info.modified_s < SILENCE_S for info in store.list(run_file(run, "alive/")))


def _quietly(beat: Callable[[], None]) -> None:
    """A sign of life that cannot be given is missed by nobody; if the store stays away, the run itself will say so."""
    with suppress(StoreError):
        beat()
