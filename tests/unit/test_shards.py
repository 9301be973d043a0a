"""Parts of a divided stage: committed one by one, joined by whoever sees them all, and as good as one commit."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from radit_job.errors import CorruptArtifact, StageFailed, TryAgainError
from radit_job.jobs import ArtifactRef, JobSpec, Shard
from radit_job.pipeline.collect import delete, refuse_while_alive, unreferenced
from radit_job.pipeline.heartbeat import heartbeat
from radit_job.pipeline.names import spec_file
from radit_job.pipeline.runs import RunRecord, StageRecord, save_run
from radit_job.store import LocalStore, shards
from radit_job.store import artifacts as committed

STAGE, KEY = "answer", "k1"
FILES = {f"{number:06d}.jsonl": f"row {number}\n" for number in range(6)}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def result(number: int = 0, **changes: Any) -> dict[str, Any]:
    plain = {
        "run": "r",
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "peak_memory_gib": 1.0 + number,
        "counters": {"n_rows": number},
        "inputs": [],
        "versions": {"python": "3.11"},
        "started_s": 100.0 + number,
        "ended_s": 102.0 + number,
        "finished_at": f"2026-01-01T00:00:0{number}Z",
    }
    return {**plain, **changes}


def publish(store: LocalStore, folder: Path, shard: Shard, nth_try: str = "", key: str = KEY) -> bool:
    """Write and commit the files that are the shard's."""
    target = folder / f"{key}-{shard.index}-of-{shard.count}{nth_try}" / "predictions"
    target.mkdir(parents=True, exist_ok=True)
    for number, (name, text) in enumerate(FILES.items()):
        if shard.takes(number):
            (target / name).write_text(text)
    return shards.publish_part(
        store, STAGE, key, shard, target.parent, ["predictions"], result(shard.index), nth_try=nth_try
    )


def publish_all(store: LocalStore, folder: Path, count: int, nth_try: str = "", key: str = KEY) -> None:
    for index in range(count):
        assert publish(store, folder, Shard(index, count), nth_try, key)


def attempts(store: LocalStore) -> set[str]:
    return {info.name.split("/")[3] for info in store.list(f"artifacts/{STAGE}/{KEY}/")} - {"manifest.json", "shards"}


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_the_digest_does_not_tell_how_many_shards_there_were(store: LocalStore, tmp_path: Path, count: int) -> None:
    alone = tmp_path / "alone" / "predictions"
    alone.mkdir(parents=True)
    for name, text in FILES.items():
        (alone / name).write_text(text)
    one, _ = committed.publish(store, STAGE, "other", alone.parent, ["predictions"], {})
    publish_all(store, tmp_path, count)  # the last ones of nine have nothing to do
    joined = shards.join(store, STAGE, KEY, count)
    assert joined is not None and joined == committed.find(store, STAGE, KEY)
    assert joined.digest_of("predictions") == one.digest_of("predictions")
    (tmp_path / "fetched").mkdir()
    folder = committed.fetch(store, joined, "predictions", tmp_path / "fetched")
    assert {path.name: path.read_text() for path in folder.iterdir()} == FILES
    assert committed.damage(store, joined) is None


def test_nothing_is_committed_before_the_last_part(store: LocalStore, tmp_path: Path) -> None:
    for index in (2, 0):
        publish(store, tmp_path, Shard(index, 3))
        assert shards.join(store, STAGE, KEY, 3) is None
    assert committed.find(store, STAGE, KEY) is None
    publish(store, tmp_path, Shard(1, 3))
    first = shards.join(store, STAGE, KEY, 3)
    written = store.read(committed.manifest_name(STAGE, KEY))
    assert shards.join(store, STAGE, KEY, 3) == first  # a second joiner, late
    assert store.read(committed.manifest_name(STAGE, KEY)) == written
    assert len(attempts(store)) == 3 + 1  # and the joined result


def test_a_part_of_another_count_is_not_joined(store: LocalStore, tmp_path: Path) -> None:
    publish(store, tmp_path, Shard(0, 2))
    publish(store, tmp_path, Shard(1, 3))
    assert shards.join(store, STAGE, KEY, 2) is None


def test_the_second_attempt_of_a_shard_adopts_the_first_and_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    assert publish(store, tmp_path, Shard(0, 2))
    before = attempts(store)
    assert not publish(store, tmp_path, Shard(0, 2))
    assert attempts(store) == before


def test_the_joined_result_sums_what_adds_up() -> None:
    apart = result(2, started_s=500.0, ended_s=501.0, versions={"python": "3.12"}, image="i")
    joined = shards.joined_result([result(0), result(1), apart])
    assert joined["counters"] == {"n_rows": 3}
    assert joined["cpu_seconds"] == 4.5
    assert joined["peak_memory_gib"] == 3.0
    assert joined["seconds"] == 3.0 + 1.0  # 100 to 103, and a second long after
    assert joined["versions"] == {"python": "3.11, 3.12"}
    assert (joined["n_shards"], joined["image"], joined["finished_at"]) == (3, "i", "2026-01-01T00:00:02Z")


def test_a_stage_in_which_no_shard_wrote_anything_has_failed(store: LocalStore, tmp_path: Path) -> None:
    for index in range(2):
        shards.publish_part(store, STAGE, KEY, Shard(index, 2), tmp_path / "none", ["predictions"], result())
    with pytest.raises(StageFailed, match="wrote no predictions"):
        shards.join(store, STAGE, KEY, 2)


def test_two_shards_with_one_file_are_a_fault(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "same" / "predictions").mkdir(parents=True)
    (tmp_path / "same" / "predictions" / "a").write_text("a")
    for index in range(2):
        shards.publish_part(store, STAGE, KEY, Shard(index, 2), tmp_path / "same", ["predictions"], result())
    with pytest.raises(StageFailed, match="two shards wrote predictions/a"):
        shards.join(store, STAGE, KEY, 2)


def test_a_new_try_reuses_its_own_parts_only_and_takes_the_place_of_the_old_one(
    store: LocalStore, tmp_path: Path
) -> None:
    publish_all(store, tmp_path, 2)
    old = shards.join(store, STAGE, KEY, 2)
    assert shards.find_part(store, STAGE, KEY, Shard(0, 2), "try-1") is None
    publish(store, tmp_path, Shard(0, 2), "try-1")
    assert shards.find_part(store, STAGE, KEY, Shard(0, 2), "try-1") is not None
    assert shards.join(store, STAGE, KEY, 2, nth_try="try-1", replace=True) is None
    assert committed.find(store, STAGE, KEY) == old  # it stands until all of the new try is there
    publish(store, tmp_path, Shard(1, 2), "try-1")
    new = shards.join(store, STAGE, KEY, 2, nth_try="try-1", replace=True)
    assert new is not None and old is not None
    assert not new.attempts() & old.attempts()
    assert committed.find(store, STAGE, KEY) == new


def test_damage_in_one_part_withdraws_all_that_would_bring_it_back(store: LocalStore, tmp_path: Path) -> None:
    publish_all(store, tmp_path, 2)
    manifest = shards.join(store, STAGE, KEY, 2)
    assert manifest is not None
    name = manifest.object_name("predictions", manifest.artifacts["predictions"][3])
    Path(store.url, name).write_text("row X\n")
    (tmp_path / "fetched").mkdir()
    with pytest.raises(CorruptArtifact):
        committed.fetch(store, manifest, "predictions", tmp_path / "fetched")
    assert committed.find(store, STAGE, KEY) is None
    assert shards.join(store, STAGE, KEY, 2) is None
    publish_all(store, tmp_path / "again", 2)  # nobody is first any more
    assert shards.join(store, STAGE, KEY, 2) is not None


def test_a_part_whose_file_is_gone_is_not_joined_but_computed_again(store: LocalStore, tmp_path: Path) -> None:
    publish_all(store, tmp_path, 3)
    part = shards.find_part(store, STAGE, KEY, Shard(1, 3))
    assert part is not None
    store.delete(part.manifest.object_name("predictions", part.manifest.artifacts["predictions"][0]))
    with pytest.raises(CorruptArtifact, match="is missing"):
        shards.join(store, STAGE, KEY, 3)
    left = [shards.find_part(store, STAGE, KEY, Shard(index, 3)) is not None for index in range(3)]
    assert left == [True, False, True]
    publish(store, tmp_path, Shard(1, 3))
    assert shards.join(store, STAGE, KEY, 3) is not None


def test_a_torn_part_counts_as_none(store: LocalStore, tmp_path: Path) -> None:
    publish_all(store, tmp_path, 2)
    store.write(shards.part_name(STAGE, KEY, Shard(1, 2)), b'{"format": 1, "sta')
    assert shards.join(store, STAGE, KEY, 2) is None
    assert publish(store, tmp_path, Shard(1, 2))
    assert shards.join(store, STAGE, KEY, 2) is not None


def test_gc_keeps_what_a_divided_stage_goes_on_from_and_what_it_committed(store: LocalStore, tmp_path: Path) -> None:
    record = RunRecord("r", "digest", "local", "2026-01-01T00:00:00Z")
    record.stages[STAGE] = StageRecord(STAGE, status="done", key=KEY)
    save_run(store, record)
    publish(store, tmp_path, Shard(0, 2))
    store.write(f"artifacts/{STAGE}/{KEY}/cutoff/predictions/x", b"x")
    assert set(unreferenced(store)) == {f"{STAGE}/{KEY}/cutoff"}
    publish(store, tmp_path, Shard(1, 2))
    publish(store, tmp_path, Shard(1, 2), "try-1")  # of a try that came to nothing
    manifest = shards.join(store, STAGE, KEY, 2)
    assert manifest is not None
    delete(store, unreferenced(store).values())
    assert unreferenced(store) == {}
    assert committed.damage(store, manifest) is None
    assert attempts(store) == manifest.attempts()
    kept = [info.name.split("/")[4:] for info in store.list(committed.shards_prefix(STAGE, KEY))]
    assert kept == [["2", "00000.json"], ["2", "00001.json"]]
    scratch = [f"{STAGE}/{KEY}", f"{STAGE}/{KEY}-1-of-2", f"{STAGE}/{KEY}-1-of-2.work", f"{STAGE}/gone-1-of-2"]
    for name in scratch:
        (store.scratch(name) / "file").write_text("x")
    assert set(unreferenced(store)) == {f"scratch/{name}" for name in scratch}
    store.delete(committed.manifest_name(STAGE, KEY))  # not as a whole any more: a run goes on from its scratch
    scratch_gone = {name for name in unreferenced(store) if name.startswith("scratch/")}
    assert scratch_gone == {f"scratch/{STAGE}/gone-1-of-2"}


def test_gc_keeps_what_is_young_and_all_that_belongs_to_it(store: LocalStore) -> None:
    for name in ("one/old/predictions/x", "one/new/predictions/x", "two/old/predictions/x"):
        store.write(f"artifacts/{STAGE}/{name}", b"x")
        if "/old/" in name:
            os.utime(Path(store.url, f"artifacts/{STAGE}/{name}"), (time.time() - 7200,) * 2)
    assert set(unreferenced(store, grace_s=3600)) == {f"{STAGE}/two"}
    assert set(unreferenced(store)) == {f"{STAGE}/one", f"{STAGE}/two"}


def test_gc_keeps_what_a_rendered_job_reads_and_writes(store: LocalStore) -> None:
    def describe(key: str, run: str = "r") -> None:
        source = ArtifactRef("corpus", "corpus", f"source-of-{key}", "sha256:0")
        spec = JobSpec(run, STAGE, 1, key, {}, (source,))
        store.write(spec_file(run, STAGE, key), json.dumps(spec.to_json()).encode())
        store.write(f"artifacts/{STAGE}/{key}/cutoff/predictions/x", b"x")
        store.write(f"artifacts/corpus/source-of-{key}/cutoff/corpus/x", b"x")

    describe("earlier")
    os.utime(Path(store.url, spec_file("r", STAGE, "earlier")), (time.time() - 7200,) * 2)
    record = RunRecord("r", "digest", "kubernetes", "2026-01-01T00:00:00Z")
    save_run(store, record)
    os.utime(Path(store.url, "runs/r/run.json"), (time.time() - 3600,) * 2)
    describe("rendered")
    describe("alone", run="never-run")
    gone = {f"{STAGE}/earlier", "corpus/source-of-earlier"}  # the run has saved itself since without it
    assert {name for name in unreferenced(store) if not name.endswith("/cutoff")} == gone
    assert unreferenced(store, grace_s=3 * 3600) == {}


@pytest.mark.parametrize("run", ["r", "begun"])  # the second has not saved itself yet
def test_gc_refuses_while_a_run_gives_a_sign_of_life(store: LocalStore, run: str) -> None:
    save_run(store, RunRecord("r", "digest", "kubernetes", "2026-01-01T00:00:00Z"))
    refuse_while_alive(store)
    with heartbeat(store, run), pytest.raises(TryAgainError, match=f"at work: {run}") as raised:
        refuse_while_alive(store)
    assert raised.value.exit_code == 75
    refuse_while_alive(store)


def test_a_late_joiner_reads_several_parts_at_a_time(tmp_path: Path) -> None:
    both_read = threading.Barrier(2)

    class Slow(LocalStore):
        def read(self, name: str) -> bytes | None:
            if "/shards/" in name:
                both_read.wait(10)
            return super().read(name)

    publish_all(LocalStore(tmp_path / "store"), tmp_path, 2)
    assert shards.join(Slow(tmp_path / "store"), STAGE, KEY, 2) is not None


def test_a_manifest_names_an_attempt_only_where_it_is_not_its_own(store: LocalStore, tmp_path: Path) -> None:
    publish_all(store, tmp_path, 1)
    [part] = store.list(committed.shards_prefix(STAGE, KEY))
    plain = json.loads(store.read(part.name) or b"")
    assert all("attempt" not in entry for entry in plain["artifacts"]["predictions"])
    joined = shards.join(store, STAGE, KEY, 1)
    assert joined is not None
    assert {entry.attempt for entry in joined.artifacts["predictions"]} == {plain["attempt"]}
