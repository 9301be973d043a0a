"""The contract of a store. A second kind of store joins by one more entry in `store`."""

from __future__ import annotations

import errno
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from radit_job.errors import ConfigError, StoreError, TryAgainError
from radit_job.store import LocalStore, ObjectStore, open_store


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def test_what_is_written_is_read(store: ObjectStore) -> None:
    store.write("runs/a/run.json", b"one")
    store.write("runs/a/run.json", b"two")
    assert store.read("runs/a/run.json") == b"two"
    assert store.read("runs/a/other.json") is None
    assert store.read("runs/a/run.json/below-a-file") is None


def test_create_has_one_winner_of_sixteen(store: ObjectStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: store.create("commit", str(number).encode()), range(16)))
    assert won.count(True) == 1
    assert store.read("commit") == str(won.index(True)).encode()


def test_uploaded_files_come_back(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(os.urandom(3_000_000))
    store.upload("artifacts/lm/weights.bin", source)
    store.upload("artifacts/lm/weights.bin", source)  # again: an upload replaces
    assert store.download("artifacts/lm/weights.bin", tmp_path).read_bytes() == source.read_bytes()
    source.unlink()
    assert store.download("artifacts/lm/weights.bin", tmp_path).stat().st_size == 3_000_000


def test_upload_from_another_file_system_copies(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    source = tmp_path / "file"
    source.write_bytes(b"content")
    monkeypatch.setattr(os, "link", refuse)
    store.upload("a/file", source)
    assert store.read("a/file") == b"content"


def test_list_is_ordered_and_only_below_the_prefix(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x")
    for number in range(2_500):
        store.upload(f"many/{number:04d}", tmp_path / "one")
    store.write("manyother", b"x")
    names = [info.name for info in store.list("many/")]
    assert names == [f"many/{number:04d}" for number in range(2_500)]
    assert [info.n_bytes for info in store.list("many/000")] == [1] * 10
    assert list(store.list("nothing/")) == []


def test_delete_leaves_no_trace(store: ObjectStore) -> None:
    store.write("a/b/c", b"x")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert store.read("a/b/c") is None
    assert list(store.list("")) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_names_cannot_leave_the_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(StoreError):
        store.write(name, b"x")


def test_scratch_survives_and_is_dropped(store: ObjectStore) -> None:
    (store.scratch("finetune_lm/k") / "checkpoint").write_text("12")
    assert (store.scratch("finetune_lm/k") / "checkpoint").read_text() == "12"
    store.drop_scratch("finetune_lm/k")
    assert not list(store.scratch("finetune_lm/k").iterdir())


def _try_to_hold(url: str) -> int:
    try:
        with open_store(url).hold("run-a"):
            return 0
    except TryAgainError as error:
        return error.exit_code


def test_a_lock_is_held_by_one_process_and_ends_with_it(store: ObjectStore) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        with store.hold("run-a"):
            assert pool.apply(_try_to_hold, (store.url,)) == 75
        assert pool.apply(_try_to_hold, (store.url,)) == 0


def test_a_failed_write_leaves_the_old_content_and_no_temporary(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a/run.json", b"old")

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match="no space left"):
        store.write("a/run.json", b"new")
    assert store.read("a/run.json") == b"old"
    assert [path.name for path in (Path(store.url) / "a").iterdir()] == ["run.json"]


def test_a_file_in_the_store_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as raised:
        LocalStore(tmp_path / "file").write("a", b"x")
    assert str(tmp_path / "file") in str(raised.value)
    assert "--store" in str(raised.value)


def test_other_kinds_of_url_are_refused() -> None:
    with pytest.raises(ConfigError):
        open_store("ftp://host/bucket")
