"""A scratch folder in use: saved now and then, and when its process is stopped or fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from radit_job import observe
from radit_job.errors import RaditError
from radit_job.store.objects import ObjectStore

KEEP_INTERVAL_S = 30.0


@contextmanager
def kept_scratch(store: ObjectStore, name: str, *, interval_s: float = KEEP_INTERVAL_S) -> Iterator[Path]:
    """The store's scratch folder, saved every `interval_s` seconds and when the block is left with an error.

    What cannot be saved is said as a warning; the work goes on.
    """
    folder = store.scratch(name)
    ended = threading.Event()

    def keep_now_and_then() -> None:
        while not ended.wait(interval_s):
            _keep(store, name)

    thread = threading.Thread(target=keep_now_and_then, daemon=True, name="keep-scratch")
    thread.start()
    try:
        yield folder
    except BaseException:
        with _no_second_stop():
            ended.set()
            thread.join()
            _keep(store, name)
        raise
    finally:
        ended.set()
        thread.join()


def _keep(store: ObjectStore, name: str) -> None:
    try:
        store.keep_scratch(name)
    except (RaditError, OSError) as error:  # OSError: a file that went while it was read
        observe.warn(f"what is done so far could not be saved: {error}")


@contextmanager
def _no_second_stop() -> Iterator[None]:
    """Whoever stops the process twice must not interrupt the saving; only the main thread may decide that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
