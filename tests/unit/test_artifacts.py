from __future__ import annotations

from pathlib import Path

import pytest

from radit_job.errors import CorruptArtifact, StoreError
from radit_job.store import LocalStore
from radit_job.store import artifacts as committed


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def written(folder: Path, text: str = "row\n") -> Path:
    target = folder / "chunks" / "deep" / "chunks.jsonl"
    target.parent.mkdir(parents=True)
    target.write_text(text)
    return folder


def published(store: LocalStore, tmp_path: Path, text: str = "row\n", name: str = "out") -> committed.Manifest:
    manifest, _ = committed.publish(store, "ingest", "k1", written(tmp_path / name, text), ["chunks"], {"seconds": 1})
    return manifest


def file_of(store: LocalStore, manifest: committed.Manifest) -> Path:
    return Path(store.url, manifest.object_name("chunks", manifest.artifacts["chunks"][0]))


def test_a_published_artifact_is_found_and_fetched(store: LocalStore, tmp_path: Path) -> None:
    manifest = published(store, tmp_path)
    assert committed.find(store, "ingest", "k1") == manifest
    folder = committed.fetch(store, manifest, "chunks", tmp_path)
    assert (folder / "deep" / "chunks.jsonl").read_text() == "row\n"
    assert committed.read_result(store, manifest) == {"seconds": 1}
    assert committed.find(store, "ingest", "k2") is None


def test_the_second_attempt_adopts_the_first_and_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    first = published(store, tmp_path, "first\n")
    second, won = committed.publish(store, "ingest", "k1", written(tmp_path / "b", "second\n"), ["chunks"], {})
    assert (second, won) == (first, False)
    attempts = {info.name.split("/")[3] for info in store.list("artifacts/ingest/k1/")}
    assert attempts == {"manifest.json", first.attempt}


def test_equal_content_has_an_equal_digest(store: LocalStore, tmp_path: Path) -> None:
    first = published(store, tmp_path)
    again, _ = committed.publish(store, "ingest", "other", written(tmp_path / "b"), ["chunks"], {})
    differs, _ = committed.publish(store, "ingest", "third", written(tmp_path / "c", "x"), ["chunks"], {})
    assert first.digest_of("chunks") == again.digest_of("chunks") != differs.digest_of("chunks")


@pytest.mark.parametrize("change", ["truncate", "flip", "delete"])
def test_damage_is_found_before_use(store: LocalStore, tmp_path: Path, change: str) -> None:
    manifest = published(store, tmp_path)
    path = file_of(store, manifest)
    if change == "truncate":
        path.write_bytes(b"ro")
    elif change == "flip":
        path.write_bytes(b"rot\n")
    else:
        path.unlink()
    with pytest.raises(CorruptArtifact) as raised:
        committed.fetch(store, manifest, "chunks", tmp_path)
    assert "deep/chunks.jsonl" in str(raised.value)
    seen = committed.damage(store, manifest)  # the cheap look sees sizes only
    assert (seen is None) == (change == "flip")


def test_a_half_written_manifest_is_no_commit(store: LocalStore, tmp_path: Path) -> None:
    published(store, tmp_path)
    Path(store.url, committed.manifest_name("ingest", "k1")).write_bytes(b'{"format": 1, "sta')
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        committed.find(store, "ingest", "k1")
    committed.withdraw(store, "ingest", "k1")
    assert committed.find(store, "ingest", "k1") is None


def test_a_crash_before_the_commit_leaves_no_artifact(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(name: str, data: bytes) -> bool:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "create", crash)
    with pytest.raises(StoreError):
        published(store, tmp_path)
    assert committed.find(store, "ingest", "k1") is None
