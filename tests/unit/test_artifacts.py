from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from radit_job.errors import CorruptArtifact, StoreError
from radit_job.store import ObjectStore, open_store
from radit_job.store import artifacts as committed


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(request.getfixturevalue("s3_environment").store_url(f"bucket/{tmp_path.name}"))


def written(folder: Path, text: str = "row\n") -> Path:
    target = folder / "chunks" / "deep" / "chunks.jsonl"
    target.parent.mkdir(parents=True)
    target.write_text(text)
    return folder


def published(store: ObjectStore, tmp_path: Path, text: str = "row\n", name: str = "out") -> committed.Manifest:
    manifest, _ = committed.publish(store, "ingest", "k1", written(tmp_path / name, text), ["chunks"], {"seconds": 1})
    return manifest


def test_a_published_artifact_is_found_and_fetched(store: ObjectStore, tmp_path: Path) -> None:
    manifest = published(store, tmp_path)
    assert committed.find(store, "ingest", "k1") == manifest
    folder = committed.fetch(store, manifest, "chunks", tmp_path)
    assert (folder / "deep" / "chunks.jsonl").read_text() == "row\n"
    assert committed.read_result(store, manifest) == {"seconds": 1}
    assert committed.find(store, "ingest", "k2") is None


def test_the_second_attempt_adopts_the_first_and_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    first = published(store, tmp_path, "first\n")
    second, won = committed.publish(store, "ingest", "k1", written(tmp_path / "b", "second\n"), ["chunks"], {})
    assert (second, won) == (first, False)
    attempts = {info.name.split("/")[3] for info in store.list("artifacts/ingest/k1/")}
    assert attempts == {"manifest.json", first.attempt}


def test_equal_content_has_an_equal_digest(store: ObjectStore, tmp_path: Path) -> None:
    first = published(store, tmp_path)
    again, _ = committed.publish(store, "ingest", "other", written(tmp_path / "b"), ["chunks"], {})
    differs, _ = committed.publish(store, "ingest", "third", written(tmp_path / "c", "x"), ["chunks"], {})
    assert first.digest_of("chunks") == again.digest_of("chunks") != differs.digest_of("chunks")


@pytest.mark.parametrize("change", ["truncate", "flip", "delete"])
def test_damage_is_found_before_use(store: ObjectStore, tmp_path: Path, change: str) -> None:
    manifest = published(store, tmp_path)
    name = manifest.object_name("chunks", manifest.artifacts["chunks"][0])
    if change == "delete":
        store.delete(name)
    else:
        store.write(name, b"ro" if change == "truncate" else b"rot\n")
    with pytest.raises(CorruptArtifact) as raised:
        committed.fetch(store, manifest, "chunks", tmp_path)
    assert "deep/chunks.jsonl" in str(raised.value)
    assert committed.find(store, "ingest", "k1") is None  # withdrawn
    seen = committed.damage(store, manifest)  # the cheap look sees sizes only
    assert (seen is None) == (change == "flip")


def test_a_half_written_manifest_is_no_commit(store: ObjectStore, tmp_path: Path) -> None:
    published(store, tmp_path)
    store.write(committed.manifest_name("ingest", "k1"), b'{"format": 1, "sta')
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        committed.find(store, "ingest", "k1")
    committed.withdraw(store, "ingest", "k1")
    assert committed.find(store, "ingest", "k1") is None


def test_a_crash_before_the_commit_leaves_no_artifact(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(name: str, data: bytes) -> bool:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "create", crash)
    with pytest.raises(StoreError):
        published(store, tmp_path)
    assert committed.find(store, "ingest", "k1") is None


def test_many_files_are_placed_as_they_were(store: ObjectStore, tmp_path: Path) -> None:
    names = {f"part-{number % 7}/{number:03d}.txt" for number in range(60)}
    for name in names:
        path = tmp_path / "out" / "chunks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    manifest, _ = committed.publish(store, "ingest", "k1", tmp_path / "out", ["chunks"], {})
    assert [entry.path for entry in manifest.artifacts["chunks"]] == sorted(names)
    folder = committed.fetch(store, manifest, "chunks", tmp_path / "in")
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.txt")}
    assert found == {name: name for name in names}


def test_a_manifest_that_leads_out_of_the_folder_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    manifest = published(store, tmp_path)
    entry = replace(manifest.artifacts["chunks"][0], path="../outside")
    with pytest.raises(StoreError, match="no object's name"):
        committed.fetch(store, replace(manifest, artifacts={"chunks": (entry,)}), "chunks", tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_one_bad_read_withdraws_nothing(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = published(store, tmp_path)
    download, spoiled = store.download, []

    def spoil_the_first(name: str, path: Path) -> str:
        sha256 = download(name, path)
        spoiled.append(name)
        return "sha256:0" if len(spoiled) == 1 else sha256

    monkeypatch.setattr(store, "download", spoil_the_first)
    committed.fetch(store, manifest, "chunks", tmp_path)
    assert len(spoiled) == 2
    assert committed.find(store, "ingest", "k1") == manifest


def test_damage_does_not_withdraw_what_has_taken_its_place_since(store: ObjectStore, tmp_path: Path) -> None:
    old = published(store, tmp_path)
    store.delete(old.object_name("chunks", old.artifacts["chunks"][0]))
    new, _ = committed.publish(store, "ingest", "k1", written(tmp_path / "b"), ["chunks"], {}, replace=True)
    with pytest.raises(CorruptArtifact, match="It is replaced; run again"):
        committed.fetch(store, old, "chunks", tmp_path)
    assert committed.find(store, "ingest", "k1") == new
