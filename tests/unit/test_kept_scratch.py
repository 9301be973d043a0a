"""Scratch in use: when it is saved, and that trouble with it does not end the work."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from radit_job import observe
from radit_job.errors import StoreError, Terminated
from radit_job.store import LocalStore
from radit_job.store.kept import kept_scratch


class CountingStore(LocalStore):
    """A folder store that says how often a scratch folder was saved, and can fail at it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.saved: list[str] = []
        self.twice = threading.Event()
        self.trouble: StoreError | None = None

    def keep_scratch(self, name: str) -> None:
        self.saved.append(name)
        if len(self.saved) >= 2:
            self.twice.set()
        if self.trouble:
            raise self.trouble


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


def test_scratch_is_saved_again_and_again(store: CountingStore) -> None:
    with kept_scratch(store, "answer/k", interval_s=0.01):
        assert store.twice.wait(30)
    n_saved = len(store.saved)
    assert not any(thread.name == "keep-scratch" for thread in threading.enumerate())
    assert len(store.saved) == n_saved


def test_scratch_is_saved_when_the_work_is_stopped_or_fails(store: CountingStore) -> None:
    for error in (Terminated("stop"), KeyboardInterrupt(), ValueError("fault")):
        store.saved.clear()
        with pytest.raises(type(error)), kept_scratch(store, "answer/k", interval_s=60):
            raise error
        assert store.saved == ["answer/k"]
    store.saved.clear()
    with kept_scratch(store, "answer/k", interval_s=60):
        pass
    assert store.saved == []  # it is dropped next


def test_what_cannot_be_saved_is_said_and_the_work_goes_on(store: CountingStore) -> None:
    store.trouble = StoreError("the bucket is gone")
    said: list[str] = []
    observe.send_events_to(lambda event: said.append(event["message"]))
    try:
        with kept_scratch(store, "answer/k", interval_s=0.01):
            assert store.twice.wait(30)
        with pytest.raises(ValueError, match="mine"), kept_scratch(store, "answer/k", interval_s=60):
            raise ValueError("mine")
    finally:
        observe.send_events_to(lambda event: None)
    assert "the bucket is gone" in said[0]
