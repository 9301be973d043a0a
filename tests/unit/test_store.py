"""The contract of a store, held by every kind of it. What only one kind has is below, or in test_s3_store."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from radit_job.errors import ConfigError, CorruptArtifact, StoreError, TryAgainError
from radit_job.store import LocalStore, ObjectStore, open_store
from radit_job.store.artifacts import fetch, publish
from radit_job.store.parallel import in_parallel


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    server = request.getfixturevalue("s3_environment")
    return open_store(server.store_url(f"bucket/{tmp_path.name}"))


@pytest.fixture
def folder_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_is_written_is_read(store: ObjectStore) -> None:
    store.write("runs/a/run.json", b"one")
    store.write("runs/a/run.json", b"two")
    assert store.read("runs/a/run.json") == b"two"
    assert store.read("runs/a/other.json") is None
    assert store.read("runs/a/run.json/below-a-file") is None


def test_names_of_any_script_come_back(store: ObjectStore) -> None:
    name = "artifacts/é ü/日本 %41+&?#=.txt"
    store.write(name, b"x")
    assert store.read(name) == b"x"
    assert [info.name for info in store.list("artifacts/é")] == [name]


@pytest.mark.parametrize("data", ["differs", "same"])
def test_create_has_one_winner_of_sixteen(store: ObjectStore, data: str) -> None:
    bodies = [str(number).encode() if data == "differs" else b"same" for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda body: store.create("commit", body), bodies))
    assert won.count(True) == 1
    assert store.read("commit") == bodies[won.index(True)]


@pytest.mark.parametrize("n_bytes", [0, 1, 8 << 20, (8 << 20) + 1, 30_000_000])
def test_uploaded_files_come_back(store: ObjectStore, tmp_path: Path, n_bytes: int) -> None:
    source, target = tmp_path / "weights.bin", tmp_path / "weights.back"
    data = os.urandom(n_bytes)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    source.write_bytes(data)
    assert store.upload("artifacts/lm/weights.bin", source) == digest
    assert store.upload("artifacts/lm/weights.bin", source) == digest  # again: an upload replaces
    assert store.download("artifacts/lm/weights.bin", target) == digest
    source.unlink()
    assert store.download("artifacts/lm/weights.bin", target) == digest
    assert target.read_bytes() == data


@pytest.mark.slow
def test_an_artifact_of_300_mb_comes_back(store: ObjectStore, tmp_path: Path) -> None:
    weights = tmp_path / "out" / "lm" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(os.urandom(300_000_000))
    manifest, _ = publish(store, "finetune_lm", "k", tmp_path / "out", ["lm"], {})
    fetched = fetch(store, manifest, "lm", tmp_path / "in") / "model.safetensors"
    assert fetched.read_bytes() == weights.read_bytes()


def test_an_object_that_is_not_there_cannot_be_downloaded(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="not there"):
        store.download("artifacts/gone", tmp_path / "file")
    assert list(tmp_path.glob("file*")) == []


@pytest.mark.parametrize("n_keys", [1_100, pytest.param(2_600, marks=pytest.mark.slow)])  # a page has 1,000
def test_list_is_ordered_and_only_below_the_prefix(store: ObjectStore, n_keys: int) -> None:
    in_parallel(lambda number: store.write(f"many/{number:04d}", b"x"), range(n_keys))
    for name in ("manyother", "more/a/b", "more/a-b", "more/a.b/c", "more/é"):
        store.write(name, b"x")
    names = [info.name for info in store.list("many/")]
    assert names == [f"many/{number:04d}" for number in range(n_keys)]
    assert [info.n_bytes for info in store.list("many/000")] == [1] * 10
    assert [info.name for info in store.list("more/")] == ["more/a-b", "more/a.b/c", "more/a/b", "more/é"]
    assert list(store.list("nothing/")) == []


def test_delete_leaves_no_trace(store: ObjectStore) -> None:
    store.write("a/b/c", b"x")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert store.read("a/b/c") is None
    assert list(store.list("")) == []
    assert store.create("a/b/c", b"y")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_names_cannot_leave_the_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(StoreError):
        store.write(name, b"x")


def test_scratch_survives_and_is_dropped(store: ObjectStore) -> None:
    (store.scratch("finetune_lm/k") / "checkpoint").write_text("12")
    store.keep_scratch("finetune_lm/k")
    assert (open_store(store.url).scratch("finetune_lm/k") / "checkpoint").read_text() == "12"
    store.drop_scratch("finetune_lm/k")
    assert not list(store.scratch("finetune_lm/k").iterdir())
    assert list(store.list("scratch/")) == []


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


def test_upload_from_another_file_system_copies_and_download_to_one_links(
    folder_store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    source = tmp_path / "file"
    source.write_bytes(b"content")
    monkeypatch.setattr(os, "link", refuse)
    digest = folder_store.upload("a/file", source)
    assert folder_store.read("a/file") == b"content"
    assert folder_store.download("a/file", tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == b"content"


def test_a_folder_s_files_are_not_copied(folder_store: LocalStore, tmp_path: Path) -> None:
    folder_store.write("a/file", b"content")
    folder_store.download("a/file", tmp_path / "back")
    assert (tmp_path / "back").samefile(Path(folder_store.url, "a", "file"))


def test_a_failed_write_leaves_the_old_content_and_no_temporary(
    folder_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_store.write("a/run.json", b"old")

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match="no space left"):
        folder_store.write("a/run.json", b"new")
    assert folder_store.read("a/run.json") == b"old"
    assert [path.name for path in (Path(folder_store.url) / "a").iterdir()] == ["run.json"]


def test_a_file_in_the_store_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as raised:
        LocalStore(tmp_path / "file").write("a", b"x")
    assert str(tmp_path / "file") in str(raised.value)
    assert "--store" in str(raised.value)


def test_other_kinds_of_url_are_refused() -> None:
    with pytest.raises(ConfigError):
        open_store("ftp://host/bucket")
