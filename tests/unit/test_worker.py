"""The worker as its own process, as an executor starts it: what it commits, what it says, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radit_job.config.schema import Config
from radit_job.config.slices import GenerateSlice
from radit_job.jobs import ArtifactRef, JobSpec, Shard
from radit_job.observe.stage_output import TERMINATION_BYTES, shortened
from radit_job.records import Chunk, write_rows
from radit_job.store import LocalStore, shards
from radit_job.store import artifacts as committed

N_PAIRS = 12
SPEC_NAME = "runs/r/jobs/generate.json"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def spec(store: LocalStore, tmp_path: Path) -> JobSpec:
    """generate from a file: a stage that can be divided and needs no model. All of its work is one block."""
    texts = [f"Machine {number} of the plant was built by workshop {number}." for number in range(N_PAIRS)]
    chunks = [Chunk(f"d#{n:05d}", "d", None, 0, len(text), 9, text) for n, text in enumerate(texts)]
    write_rows(tmp_path / "in" / "chunks" / "chunks.jsonl", chunks)
    pairs = [{"question": f"Who built machine {n}?", "answer": f"workshop {n}"} for n in range(N_PAIRS)]
    (tmp_path / "in" / "question_file").mkdir()
    (tmp_path / "in" / "question_file" / "q.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    inputs = []
    for stage, artifact in (("ingest", "chunks"), ("question_file", "question_file")):
        manifest, _ = committed.publish(store, stage, "k", tmp_path / "in", [artifact], {})
        inputs.append(ArtifactRef(artifact, stage, "k", manifest.digest_of(artifact)))
    config = Config.model_validate(
        {"name": "r", "corpus": {"paths": ["d"]}, "questions": {"source": "file", "path": "q.jsonl"}}
    )
    return JobSpec(
        "r", "generate", 2, "0123456789abcdef", GenerateSlice.of(config).model_dump(mode="json"), tuple(inputs)
    )


def start(store: LocalStore, spec: JobSpec, index: int | None = None, **environment: str) -> subprocess.Popen[str]:
    store.write(SPEC_NAME, json.dumps(spec.to_json()).encode())
    command = [sys.executable, "-m", "radit_job", "stage", spec.stage, "--spec", SPEC_NAME, "--store", store.url]
    env = {**os.environ, **environment} | ({} if index is None else {"JOB_COMPLETION_INDEX": str(index)})
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(
    store: LocalStore, spec: JobSpec, index: int | None = None, **environment: str
) -> tuple[int, list[dict[str, Any]]]:
    process = start(store, spec, index, **environment)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, [json.loads(line) for line in out.splitlines()]


def manifest_of(store: LocalStore, spec: JobSpec) -> committed.Manifest:
    manifest = committed.find(store, spec.stage, spec.key)
    assert manifest is not None
    return manifest


def test_any_number_of_shards_commits_the_same_artifact(store: LocalStore, spec: JobSpec) -> None:
    assert run(store, spec, RADIT_IMAGE="radit@sha256:1")[0] == 0
    alone = manifest_of(store, spec)
    assert committed.read_result(store, alone)["image"] == "radit@sha256:1"
    for count in (2, 5):
        shared = replace(spec, key=f"{spec.key}-{count}", shards=count)
        for index in reversed(range(count)):  # the one with the work comes last
            code, events = run(store, shared, index)
            assert code == 0, events
            labels = {(event["run"], event["stage"], event["key"], event["shard"]) for event in events}
            assert labels == {("r", "generate", shared.key[:10], index)}
        joined = manifest_of(store, shared)
        assert joined.digest_of("questions") == alone.digest_of("questions")
        result = committed.read_result(store, joined)
        assert (result["n_shards"], result["counters"]["n_questions"]) == (count, N_PAIRS)
    assert not list(store.list("scratch/"))


def test_every_event_names_run_stage_and_key(store: LocalStore, spec: JobSpec) -> None:
    code, events = run(store, spec)
    assert (code, {event["event"] for event in events}) == (0, {"progress", "log"})
    assert {(e["run"], e["stage"], e["key"], e.get("shard")) for e in events} == {("r", "generate", "0123456789", None)}


def test_a_shard_that_is_committed_is_not_computed_again(store: LocalStore, spec: JobSpec) -> None:
    shared = replace(spec, shards=2)
    run(store, shared, 0)
    part = shards.find_part(store, spec.stage, spec.key, Shard(0, 2))
    code, events = run(store, shared, 0)
    assert code == 0
    assert [event["message"] for event in events] == ["this shard is already committed"]
    assert shards.find_part(store, spec.stage, spec.key, Shard(0, 2)) == part
    run(store, shared, 1)
    assert part is not None and part.manifest.attempt in manifest_of(store, spec).attempts()
    code, events = run(store, shared, 1)
    assert [event["message"] for event in events] == ["already committed; nothing to do"]


def test_a_crash_before_the_join_is_made_good_by_the_next_pod(store: LocalStore, spec: JobSpec) -> None:
    shared = replace(spec, shards=2)
    run(store, shared, 0)
    run(store, shared, 1)
    store.delete(committed.manifest_name(spec.stage, spec.key))  # as if the last pod had died right before it
    assert run(store, shared, 1)[0] == 0
    assert manifest_of(store, spec).n_bytes_of("questions") > 0


def test_two_workers_on_one_shard_end_well_with_one_part(store: LocalStore, spec: JobSpec) -> None:
    shared = replace(spec, shards=2)
    both = [start(store, shared, 0) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    run(store, shared, 1)
    attempts = {info.name.split("/")[3] for info in store.list(f"artifacts/generate/{spec.key}/")}
    assert attempts == {"manifest.json", "shards"} | manifest_of(store, spec).attempts()


def test_shards_that_replace_share_a_try_and_reuse_no_other(store: LocalStore, spec: JobSpec) -> None:
    shared = replace(spec, shards=2)
    for index in range(2):
        run(store, shared, index)
    old = manifest_of(store, spec)
    forced = replace(shared, replace=True)
    assert run(store, forced, 0)[0] == 64  # it cannot know which parts it may reuse
    run(store, forced, 0, RADIT_TRY="uid-1")
    assert manifest_of(store, spec) == old
    _, events = run(store, forced, 0, RADIT_TRY="uid-1")
    assert "this shard is already committed" in [event["message"] for event in events]
    run(store, forced, 1, RADIT_TRY="uid-1")
    new = manifest_of(store, spec)
    assert not new.attempts() & old.attempts()
    assert new.digest_of("questions") == old.digest_of("questions")


@pytest.mark.parametrize("number", [None, "2", "-1", "x"])
def test_a_shard_without_a_number_is_a_config_error_where_kubernetes_reads_it(
    store: LocalStore, spec: JobSpec, tmp_path: Path, number: str | None
) -> None:
    environment = {} if number is None else {"JOB_COMPLETION_INDEX": number}
    log = tmp_path / "termination-log"
    code, events = run(store, replace(spec, shards=2), None, RADIT_TERMINATION_LOG=str(log), **environment)
    assert code == 64
    said = json.loads(log.read_bytes())
    assert (said["where"], said["type"], said["run"]) == ("JOB_COMPLETION_INDEX", "ConfigError", "r")
    assert events[-1]["event"] == "error" and events[-1]["what"] == said["what"]


def test_a_stage_that_cannot_be_divided_says_so(store: LocalStore, spec: JobSpec) -> None:
    code, events = run(store, replace(spec, stage="split", shards=2), 0)
    assert (code, events[-1]["type"]) == (64, "ConfigError")


def test_sigterm_ends_a_stage_with_143_and_is_said(store: LocalStore, spec: JobSpec, tmp_path: Path) -> None:
    waiting = Path(store.url, committed.manifest_name("ingest", "k"))
    waiting.unlink()
    os.mkfifo(waiting)  # the stage's input is what never comes
    log = tmp_path / "termination-log"
    process = start(store, spec, RADIT_TERMINATION_LOG=str(log), PYTHONUNBUFFERED="1")
    with waiting.open("wb"):  # opens when the worker reads it: now it is in the middle of its work
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    out, _ = process.communicate()
    assert json.loads(out.splitlines()[-1])["type"] == "Terminated"
    assert json.loads(log.read_bytes())["exit_code"] == 143
    assert committed.find(store, spec.stage, spec.key) is None


@pytest.mark.parametrize("text", ["x" * 100_000, 'ü\n"' * 5000, "\0" * 5000, "\ud800" * 5000, ""])
def test_a_long_error_is_cut_but_stays_json(text: str) -> None:
    error = {"event": "error", "type": "StageFailed", "what": text, "where": "here", "todo": None, "exit_code": 1}
    data = shortened(error, TERMINATION_BYTES)
    assert len(data) <= TERMINATION_BYTES
    said = json.loads(data)
    assert {**said, "what": ""} == {**error, "what": ""}
    assert len(data) > TERMINATION_BYTES - 20 or not text
    assert len(shortened({**error, "where": text, "todo": text}, TERMINATION_BYTES)) <= TERMINATION_BYTES


def test_an_input_that_was_replaced_meanwhile_is_refused(store: LocalStore, spec: JobSpec) -> None:
    chunks, questions = spec.inputs
    code, events = run(store, replace(spec, inputs=(replace(chunks, digest="sha256:0"), questions)))
    assert code == 65  # which Kubernetes does not retry
    assert events[-1]["what"] == "the input chunks of ingest was replaced while this stage waited"
    assert committed.find(store, spec.stage, spec.key) is None


@pytest.mark.parametrize("environment", [{"RADIT_TRY": "uid-2"}, {}])
def test_a_forced_stage_goes_on_from_nothing_that_it_shall_replace(
    store: LocalStore, spec: JobSpec, environment: dict[str, str]
) -> None:
    """As if the tries before it had died between their commit and the end of their scratch folder."""
    run(store, spec)
    first = manifest_of(store, spec)
    forced = replace(spec, replace=True)
    run(store, forced, RADIT_TRY="uid-1")
    second = manifest_of(store, spec)
    assert first.attempt != second.attempt
    names = [f"generate/{spec.key}{end}" for end in ("", "-uid-1", f"-{first.attempt}")]
    for name in names:
        (store.scratch(name) / "out-questions").write_text("a file where the stage makes a folder")
    waiting = Path(store.url, committed.manifest_name("ingest", "k"))
    content = waiting.read_bytes()
    waiting.unlink()
    os.mkfifo(waiting)
    process = start(store, forced, **environment)
    with waiting.open("wb") as file:  # opens when the worker reads it: now it is in the middle of its work
        folders = {path.name for path in Path(store.url, "scratch", "generate").iterdir()}
        file.write(content)
    process.communicate(timeout=60)
    assert process.returncode == 0
    ours = f"{spec.key}-{environment.get('RADIT_TRY', second.attempt)}"
    assert folders - {Path(name).name for name in names} == {ours, f"{ours}.work"}
    assert manifest_of(store, spec).attempt not in (first.attempt, second.attempt)


def test_a_try_that_has_committed_is_not_computed_again(store: LocalStore, spec: JobSpec) -> None:
    run(store, spec)
    forced = replace(spec, replace=True)
    run(store, forced, RADIT_TRY="uid-1")
    done = manifest_of(store, spec)
    code, events = run(store, forced, RADIT_TRY="uid-1")  # the pod was killed between its commit and its end
    assert code == 0
    assert [event["message"] for event in events] == ["this try has committed already; nothing to do"]
    assert manifest_of(store, spec) == done
    run(store, forced, RADIT_TRY="uid-2")
    assert manifest_of(store, spec).attempt != done.attempt
