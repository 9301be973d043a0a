"""`radit bench`: which stages it runs for which run, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from radit_job.cli.bench import controller_for, open_target, until_of
from radit_job.errors import ConfigError, InputError, StageFailed
from radit_job.jobs import JobSpec, JobState, Outcome
from radit_job.pipeline.names import spec_file
from radit_job.pipeline.outputs import latency_calls
from radit_job.pipeline.plan import Decision
from radit_job.pipeline.runs import RunRecord, load_latency, load_results, load_run, require_run, save_run
from radit_job.store import LocalStore
from radit_job.store.artifacts import publish
from tests.unit.latency_measured import CALLS, measured
from tests.unit.test_controller import CONFIG, CommittingExecutor

BEFORE = ["ingest", "index", "generate"]


class Measuring(CommittingExecutor):
    """Commits what the benchmark writes, too; its times differ from one measurement to the next."""

    n_measured = 0

    def _commit(self, spec: JobSpec) -> None:
        if spec.stage != "benchmark":
            super()._commit(spec)
            return
        Measuring.n_measured += 1
        out = self.store.scratch(f"out/{spec.key}")
        (out / "latency").mkdir()
        plain = measured(readings=[f"measurement {Measuring.n_measured}"])
        (out / "latency/latency.json").write_text(json.dumps(plain))
        (out / "latency/calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in CALLS))
        result = {"run": spec.run, "seconds": 1.5, "finished_at": self.finished_at}
        publish(self.store, spec.stage, spec.key, out, ["latency"], result, replace=spec.replace)
        self.store.drop_scratch(f"out/{spec.key}")


class Folder:
    """A configuration with its documents, and a store of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "corpus").mkdir()
        (folder / "corpus" / "a.txt").write_text("one document")
        (folder / "questions.jsonl").write_text("{}")
        self.config = folder / "small.yaml"
        self.config.write_text(CONFIG)
        self.folder = folder
        self.store = LocalStore(folder / "store")

    def bench(
        self, target: str, *overrides: str, name: str | None = None, failing: Mapping[str, Outcome] = {}
    ) -> list[str]:
        """The stages that were started."""
        loaded, store, sources = open_target(target, str(self.folder / "store"), list(overrides), name)
        executor = Measuring(self.store)
        executor.failing = dict(failing)
        controller_for(loaded, store, sources).run(executor)
        return executor.started

    def run(self) -> Measuring:
        """The whole chain, as `radit run` does it."""
        from radit_job.cli.options import controller_of, load

        loaded, store = load(self.config, str(self.folder / "store"), None, None)
        executor = Measuring(self.store)
        controller_of(loaded, store, None, None).run(executor)
        return executor


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_run_without_results_stops_behind_the_benchmark(folder: Folder) -> None:
    assert folder.bench(str(folder.config)) == [*BEFORE, "benchmark"]
    record = require_run(folder.store, "small")
    assert record.status == "done" and not record.is_over
    assert record.stages["answer"].status == "skipped"
    assert load_latency(folder.store, "small")["k"] == 2
    assert latency_calls(folder.store, record) == CALLS


def test_a_finished_run_keeps_its_results_and_gets_a_new_report(folder: Folder) -> None:
    folder.run()
    before = load_results(folder.store, "small")
    assert folder.bench("small") == ["benchmark", "report"]
    record = require_run(folder.store, "small")
    assert record.is_over and record.stages["evaluate"].status == "cached"
    after = load_results(folder.store, "small")
    assert {name: after[name] for name in ("arms", "rows", "pairs")} == {
        name: before[name] for name in ("arms", "rows", "pairs")
    }
    folder.run()  # the configuration has no benchmark: nothing but the report can differ, and the first one is there
    assert {item["stage"]: item["status"] for item in load_results(folder.store, "small")["stages"]} == {
        name: "skipped" if name == "benchmark" else "cached" for name in record.stages
    }


def test_a_measurement_is_made_anew_each_time(folder: Folder) -> None:
    folder.bench(str(folder.config))
    first = load_latency(folder.store, "small")["readings"]
    assert folder.bench("small") == ["benchmark"]
    assert load_latency(folder.store, "small")["readings"] != first


def test_a_run_is_measured_without_its_documents_at_hand(folder: Folder) -> None:
    folder.run()
    shutil.rmtree(folder.folder / "corpus")
    assert folder.bench("small") == ["benchmark", "report"]
    with pytest.raises(InputError, match="no such file or folder"):
        folder.bench(str(folder.config))


def test_documents_that_the_store_lost_are_named(folder: Folder) -> None:
    folder.run()
    shutil.rmtree(folder.folder / "store/artifacts/corpus")
    with pytest.raises(InputError, match="the run's corpus is not in the store"):
        folder.bench("small")


def test_results_are_never_left_beside_stages_that_they_are_not_of(folder: Folder) -> None:
    folder.run()
    before = load_run(folder.store, "small")
    with pytest.raises(ConfigError, match="ingest would run anew") as raised:
        folder.bench("small", "chunking.size_tokens=64")
    assert "--name small-bench" in str(raised.value)
    assert load_run(folder.store, "small") == before
    assert folder.bench("small", "chunking.size_tokens=64", name="other") == [*BEFORE, "benchmark"]
    assert load_run(folder.store, "small") == before


def test_a_benchmark_that_fails_takes_no_results_away(folder: Folder) -> None:
    folder.run()
    before = load_results(folder.store, "small")
    with pytest.raises(StageFailed):
        folder.bench("small", failing={"benchmark": Outcome(JobState.FAILED, 1)})
    assert load_results(folder.store, "small")["rows"] == before["rows"]
    assert folder.store.read("runs/small/report.html") is not None


def test_a_stage_that_is_skipped_is_not_behind_the_report(folder: Folder) -> None:
    with pytest.raises(StageFailed):
        folder.bench(str(folder.config), failing={"benchmark": Outcome(JobState.FAILED, 1)})
    executor = folder.run()
    assert "benchmark" not in dict(executor.specs["report"].lineage)
    folder.bench("small")
    record = require_run(folder.store, "small")
    spec = json.loads(folder.store.read(spec_file("small", "report", record.stages["report"].key or "")) or b"")
    assert "benchmark" in dict(spec["lineage"])


def test_only_the_report_may_run_beside_the_benchmark() -> None:
    cached = [Decision(stage, "cached", "") for stage in ("ingest", "answer")]
    own = [Decision("benchmark", "run", "forced"), Decision("report", "waits", "behind benchmark")]
    assert until_of([*cached, *own], "r", has_results=True) is None
    assert until_of([*cached, Decision("split", "waits", ""), *own], "r", has_results=False) == "benchmark"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bench"], 64, "Missing argument"),
        (["bench", "nope"], 64, "no run 'nope'"),
        (["bench", "nothere.yaml"], 64, "no such configuration file"),
        (["bench", "small", "--executor", "slurm"], 64, "no executor 'slurm'"),
        (["bench", "small", "--last"], 64, "was never measured"),
        (["bench", "measured", "--last"], 0, "A query takes 1.4 s"),
        (["bench", "measured", "--last", "--set", "retrieval.kk=3"], 64, "did you mean k?"),
    ],
)
def test_one_short_message_and_the_right_code(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    store = LocalStore(tmp_path / ".radit")
    for name in ("small", "measured"):
        save_run(store, RunRecord(name, "sha256:0", "local", "2026-01-01T00:00:00Z", status="done"))
        store.write(f"runs/{name}/config.yaml", f"{{name: {name}, corpus: {{paths: [papers]}}}}".encode())
    store.write("runs/measured/latency.json", json.dumps(measured()).encode())
    command = [sys.executable, "-m", "radit_job", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    said = done.stdout + done.stderr
    assert (done.returncode, words in said, "Traceback" in said) == (code, True, False), said
