"""`answer` divided among real worker processes, as the pods of an Indexed Job are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from radit_job.jobs import JobSpec, Shard
from radit_job.store import LocalStore, shards
from radit_job.store.artifacts import Manifest, find, read_result
from tests.e2e.conftest import Workplace, environment


@pytest.fixture
def store(finished: Workplace, tmp_path: Path) -> LocalStore:
    """A copy of the finished run's store: the run itself is other tests', too."""
    shutil.copytree(finished.folder / ".radit", tmp_path / "store")
    return LocalStore(tmp_path / "store")


def spec_of(store: LocalStore, stage: str) -> JobSpec:
    """The spec with which the finished run ran the stage."""
    [path] = Path(store.url, "runs", "small", "jobs").glob(f"{stage}*.json")
    return JobSpec.from_json(json.loads(path.read_text()))


def start(store: LocalStore, spec: JobSpec, index: int) -> subprocess.Popen[bytes]:
    name = f"runs/small/jobs/{spec.stage}-{spec.key[:10]}.json"
    store.write(name, json.dumps(spec.to_json()).encode())
    command = [sys.executable, "-m", "radit_job", "stage", spec.stage, "--spec", name, "--store", store.url]
    env = {**environment(), "JOB_COMPLETION_INDEX": str(index), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE)


def run(store: LocalStore, spec: JobSpec, index: int) -> None:
    process = start(store, spec, index)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out.decode()


def manifest_of(store: LocalStore, spec: JobSpec) -> Manifest:
    manifest = find(store, spec.stage, spec.key)
    assert manifest is not None
    return manifest


def parts_of(store: LocalStore, spec: JobSpec) -> list[shards.Part | None]:
    return [shards.find_part(store, spec.stage, spec.key, Shard(index, spec.shards)) for index in range(spec.shards)]


def test_a_killed_shard_runs_again_alone_and_the_digest_is_that_of_one_process(store: LocalStore) -> None:
    whole = spec_of(store, "answer")
    spec = replace(whole, key="f" * 62 + "04", shards=4)
    killed = start(store, spec, 2)
    assert killed.stdout is not None
    for line in killed.stdout:
        if b"answering" in line:
            break
    killed.kill()
    killed.communicate()
    for index in (0, 1, 3):
        run(store, spec, index)
    before = parts_of(store, spec)
    assert [part is not None for part in before] == [True, True, False, True]
    assert find(store, spec.stage, spec.key) is None
    run(store, spec, 2)
    after = parts_of(store, spec)
    assert [after[index] for index in (0, 1, 3)] == [before[index] for index in (0, 1, 3)]
    joined, alone = manifest_of(store, spec), manifest_of(store, whole)
    assert joined.attempts() == {part.manifest.attempt for part in after if part} | {joined.attempt}
    assert joined.digest_of("predictions") == alone.digest_of("predictions")
    assert read_result(store, joined)["counters"] == read_result(store, alone)["counters"]
    assert not list(Path(store.url, "scratch").glob("answer/*"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5])
def test_any_number_of_shards_gives_the_digest_of_one_process(store: LocalStore, count: int) -> None:
    whole = spec_of(store, "answer")
    spec = replace(whole, key=f"{'f' * 62}{count:02d}", shards=count)
    for index in range(count):
        run(store, spec, index)
    assert manifest_of(store, spec).digest_of("predictions") == manifest_of(store, whole).digest_of("predictions")
