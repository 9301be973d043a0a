"""Scratch in use: when it is saved, and that trouble with it does not end the work."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from radit_job import observe
from radit_job.errors import StoreError, Terminated
from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger
from radit_job.store import LocalStore
from radit_job.store.kept import kept_scratch
from radit_job.store.scratch import MirroredScratch


class CountingStore(LocalStore):
    """A folder store that says how often a scratch folder was saved, and can fail at it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.saved: list[str] = []
        self.twice = threading.Event()
        self.trouble: StoreError | None = None

    def keep_scratch(self, name: str) -> bool:
        self.saved.append(name)
        if len(self.saved) >= 2:
            self.twice.set()
        if self.trouble:
            raise self.trouble
        return True


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


class MirroringStore(LocalStore):
    """A folder as the bucket, and a scratch folder of one machine in front of it."""

    def __init__(self, bucket: Path, machine: Path) -> None:
        super().__init__(bucket)
        self.mirror = MirroredScratch(LocalStore(bucket), machine)

    def scratch(self, name: str) -> Path:
        return self.mirror.open(name)

    def keep_scratch(self, name: str) -> bool:
        return self.mirror.keep(name)


def test_what_many_threads_paid_for_is_on_another_machine_when_their_calls_return(tmp_path: Path) -> None:
    """While a second thread saves the same folder now and then, as it does in a stage's process."""
    store = MirroringStore(tmp_path / "bucket", tmp_path / "here")
    names = iter(itertools.count())
    lost: list[str] = []

    def save(spent: object) -> None:
        while not store.keep_scratch("answer/k"):
            pass

    with kept_scratch(store, "answer/k", interval_s=0.01) as folder:
        ledger = Ledger(folder / "paid", save=save)

        def pay(number: int) -> None:
            ledger.keep(f"key-{number}", number, ledger.reserve("m", Usage()), Usage(1))
            if number % 10 == 0:  # the machine is gone now: what does another one find?
                there = MirroringStore(tmp_path / "bucket", tmp_path / f"there-{next(names)}").scratch("answer/k")
                if Ledger(there / "paid").find(f"key-{number}") is None:
                    lost.append(f"key-{number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(pay, range(100)))
    assert lost == []
    there = MirroringStore(tmp_path / "bucket", tmp_path / "in-the-end").scratch("answer/k")
    assert Ledger(there / "paid").spent["m"].usage.n_calls == 100


def test_a_folder_that_never_stands_still_is_not_said_to_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MirroringStore(tmp_path / "bucket", tmp_path / "here")
    growing = store.scratch("answer/k") / "growing"
    growing.write_text("")
    link = os.link

    def link_and_grow(source: Path, target: Path) -> None:
        link(source, target)
        if source == growing:
            growing.write_text(growing.read_text() + "more")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", link_and_grow)
        assert not store.keep_scratch("answer/k")
    assert store.keep_scratch("answer/k")
