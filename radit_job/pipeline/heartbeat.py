"""A sign of life in the store, for `radit status` on another machine, where no lock can be asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from radit_job.errors import StoreError
from radit_job.pipeline.names import run_file
from radit_job.store import ObjectStore

BEAT_INTERVAL_S = 20.0
SILENCE_S = 90.0  # a controller that said nothing for so long is gone; clocks may differ by the rest


@contextmanager
def heartbeat(store: ObjectStore, run: str) -> Iterator[None]:
    """Touch `runs/<run>/alive` now and then, until the context ends."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_INTERVAL_S):
            _touch(store, run)

    _touch(store, run)
    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _forget(store, run)


def is_alive(store: ObjectStore, run: str) -> bool:
    """Whether a controller of this run, on whatever machine, gave a sign of life lately."""
    name = run_file(run, "alive")
    return any(info.name == name and time.time() - info.modified_s < SILENCE_S for info in store.list(name))


def _touch(store: ObjectStore, run: str) -> None:
    try:
        store.write(run_file(run, "alive"), b"")
    except StoreError:
        return  # the run itself will say so, if it lasts


def _forget(store: ObjectStore, run: str) -> None:
    try:
        store.delete(run_file(run, "alive"))
    except StoreError:
        return  # it grows old by itself
