"""The controller's decisions, with a real store and an executor that commits small artifacts in this process."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from radit_job.config.loading import load_config
from radit_job.config.models import Model
from radit_job.errors import (
    ConfigError,
    CorruptArtifact,
    InputError,
    Interrupted,
    RaditError,
    StageFailed,
    TryAgainError,
)
from radit_job.jobs import Condition, JobSpec, JobState, Outcome, Resources
from radit_job.pipeline.catalog import CATALOG
from radit_job.pipeline.collect import unreferenced
from radit_job.pipeline.controller import Controller
from radit_job.pipeline.heartbeat import heartbeat
from radit_job.pipeline.plan import Decision
from radit_job.pipeline.planner import Planner, nodes_of
from radit_job.pipeline.runs import is_cut_off, load_results, load_run, save_run
from radit_job.store import LocalStore
from radit_job.store.artifacts import find, publish

CONFIG = """
name: small
corpus: {paths: [corpus]}
questions: {source: file, path: questions.jsonl}
"""


class CommittingExecutor:
    """Runs nothing: commits what a stage would, so that the controller is tested without models.

    What a stage writes depends on its slice, unless `stable` names it: then it always writes the same.
    """

    context: str | None = None
    namespace: str | None = None
    afterwards = "Come again."

    def __init__(
        self, store: LocalStore, stable: frozenset[str] = frozenset(), rooms: int = 1, name: str = "local"
    ) -> None:
        self.name = name
        self.store = store
        self.specs: dict[str, JobSpec] = {}
        self.conditions: dict[str, list[Condition]] = {}  # what a stage goes through before it ends
        self.stable = stable
        self.rooms = rooms
        self.started: list[str] = []
        self.failing: dict[str, Outcome] = {}
        self.interrupt_at: str | None = None
        self.stopped = False
        self.finished_at = "2999-01-01T00:00:00Z"
        self._waiting: deque[JobSpec] = deque()

    def has_room(self, resources: Resources) -> bool:
        return len(self._waiting) < self.rooms

    def start(self, spec: JobSpec, spec_name: str) -> None:
        assert JobSpec.from_json(json.loads(self.store.read(spec_name) or b"")) == spec
        self.started.append(spec.stage)
        self.specs[spec.stage] = spec
        self._waiting.append(spec)

    def wait(self) -> list[tuple[str, Outcome | Condition]]:
        if self.conditions.get(self._waiting[0].stage):
            return [(self._waiting[0].stage, self.conditions[self._waiting[0].stage].pop(0))]
        spec = self._waiting.popleft()
        if spec.stage == self.interrupt_at:
            raise KeyboardInterrupt
        if spec.stage in self.failing:
            return [(spec.stage, self.failing[spec.stage])]
        self._commit(spec)
        return [(spec.stage, Outcome(JobState.SUCCEEDED, 0))]

    def stop(self) -> None:
        self.stopped = True

    def _commit(self, spec: JobSpec) -> None:
        row = next(row for row in CATALOG if row.name == spec.stage)
        out = self.store.scratch(f"out/{spec.key}")
        for artifact in row.writes:
            (out / artifact).mkdir(exist_ok=True)
            text = "same" if spec.stage in self.stable else spec.key
            (out / artifact / "rows.jsonl").write_text(text)
        if spec.stage == "evaluate":
            (out / "results" / "results.json").write_text(json.dumps({"arms": ["base"], "rows": [], "pairs": []}))
        if spec.stage == "report":
            (out / "report" / "report.html").write_text("<html></html>")
        result = {"run": spec.run, "seconds": 1.5, "finished_at": self.finished_at}
        publish(self.store, spec.stage, spec.key, out, row.writes, result, replace=spec.replace)
        self.store.drop_scratch(f"out/{spec.key}")


class Bench:
    """One configuration, one store, and as many controllers as a test needs."""

    def __init__(self, folder: Path) -> None:
        (folder / "corpus").mkdir()
        (folder / "corpus" / "a.txt").write_text("one document")
        (folder / "questions.jsonl").write_text("{}")
        (folder / "small.yaml").write_text(CONFIG)
        self.folder = folder
        self.store = LocalStore(folder / "store")
        self.identity = "weights-1"

    def controller(self, *overrides: str, **options: Any) -> Controller:
        loaded = load_config(self.folder / "small.yaml", overrides)
        return Controller(loaded, self.store, self._identity_of, run="small", **options)

    def run(self, *overrides: str, **options: Any) -> list[str]:
        executor = options.pop("executor", None) or CommittingExecutor(self.store)
        self.controller(*overrides, **options).run(executor)
        return executor.started

    def plan(self, *overrides: str, **options: Any) -> dict[str, Decision]:
        return {decision.stage: decision for decision in self.controller(*overrides, **options).plan()}

    def statuses(self) -> dict[str, str]:
        record = load_run(self.store, "small")
        assert record is not None
        return {name: stage.status for name, stage in record.stages.items()}

    def _identity_of(self, model: Model) -> str:
        return f"{model.name}:{self.identity}"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# The benchmark is a stage that is asked for; tests/unit/test_bench.py does.
ROWS = [row for row in CATALOG if row.name != "benchmark"]
ALL = [row.name for row in ROWS]


def test_a_first_run_runs_every_stage_behind_its_inputs(bench: Bench) -> None:
    started = bench.run()
    assert sorted(started) == sorted(ALL)
    for row in ROWS:
        for read in row.reads:
            writers = [other.name for other in ROWS if read.removesuffix("?") in other.writes]
            assert all(started.index(writer) < started.index(row.name) for writer in writers)
    assert bench.statuses() == dict.fromkeys(ALL, "done") | {"benchmark": "skipped"}
    assert [stage["stage"] for stage in load_results(bench.store, "small")["stages"]] == [row.name for row in CATALOG]


def test_a_second_run_is_all_cached(bench: Bench) -> None:
    bench.run()
    assert bench.run() == []
    assert {bench.statuses()[name] for name in ALL} == {"cached"}
    assert {bench.plan()[name].action for name in ALL} == {"cached"}


def test_a_metric_setting_reruns_evaluate_and_report_alone(bench: Bench) -> None:
    bench.run()
    changed = "evaluate.bootstrap_samples=500"
    plan = bench.plan(changed)
    assert plan["evaluate"].action == "run"
    assert plan["evaluate"].why == "bootstrap_samples changed from 10000 to 500"
    assert plan["report"].action == "waits"
    assert plan["answer"].action == "cached"
    assert bench.run(changed) == ["evaluate", "report"]


def test_a_chunk_size_reruns_everything_behind_ingest(bench: Bench) -> None:
    bench.run()
    changed = "chunking.size_tokens=128"
    assert "chunking.size_tokens changed from 254 to 128" in bench.plan(changed)["ingest"].why
    assert sorted(bench.run(changed)) == sorted(ALL)


def test_an_identical_result_stops_the_cascade(bench: Bench) -> None:
    stable = frozenset({"ingest"})
    bench.run(executor=CommittingExecutor(bench.store, stable))
    started = bench.run("chunking.overlap_tokens=16", executor=CommittingExecutor(bench.store, stable))
    # The report shows the chunking and is written again; nothing that costs anything is.
    assert started == ["ingest", "report"]


def test_a_changed_document_is_named(bench: Bench) -> None:
    bench.run()
    (bench.folder / "corpus" / "a.txt").write_text("another text")
    assert bench.plan()["ingest"].why.startswith("input corpus changed")


def test_a_changed_model_is_named(bench: Bench) -> None:
    bench.run()
    bench.identity = "weights-2"
    assert bench.plan()["ingest"].why == "the model embedder changed"


def test_force_runs_a_cached_stage_again(bench: Bench) -> None:
    bench.run(executor=CommittingExecutor(bench.store, frozenset(ALL)))
    assert bench.plan(force=["answer"])["answer"].why == "forced"
    assert bench.run(force=["answer"], executor=CommittingExecutor(bench.store, frozenset(ALL))) == ["answer"]
    with pytest.raises(ConfigError, match="no stage 'anwser'"):
        bench.controller(force=["anwser"])


def test_until_runs_what_a_stage_needs_and_no_more(bench: Bench) -> None:
    assert sorted(bench.run(until="split")) == ["generate", "ingest", "split"]
    assert bench.statuses()["answer"] == "skipped"
    assert bench.store.read("runs/small/results.json") is None


def test_no_tuned_arm_means_no_training(bench: Bench) -> None:
    started = bench.run("evaluate.arms=[base]")
    assert "finetune_lm" not in started
    assert "answer" in started
    assert bench.statuses()["finetune_lm"] == "skipped"


def test_a_failed_stage_stops_the_run_with_its_own_error(bench: Bench) -> None:
    executor = CommittingExecutor(bench.store)
    said = InputError("is encrypted", where="a.pdf", todo="Decrypt it.").to_json()
    executor.failing["ingest"] = Outcome(JobState.FAILED, 65, said)
    with pytest.raises(InputError, match="is encrypted") as raised:
        bench.run(executor=executor)
    assert raised.value.exit_code == 65
    assert executor.started == ["ingest"]
    assert bench.statuses()["ingest"] == "failed"
    assert sorted(bench.run()) == sorted(ALL)  # the next run begins where this one failed


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(JobState.FAILED, -9), "killed"),
        (Outcome(JobState.FAILED, 7), "exit code 7"),
        (Outcome(JobState.SUCCEEDED, 0), "committed nothing"),
    ],
)
def test_a_silent_end_is_explained(bench: Bench, outcome: Outcome, words: str) -> None:
    executor = CommittingExecutor(bench.store)
    executor.failing["split"] = outcome
    with pytest.raises(StageFailed, match=words):
        bench.run(executor=executor)


def test_other_stages_end_before_a_failure_is_reported(bench: Bench) -> None:
    executor = CommittingExecutor(bench.store, rooms=4)
    executor.failing["index"] = Outcome(JobState.FAILED, 1)
    with pytest.raises(RaditError):
        bench.run(executor=executor)
    assert executor.started == ["ingest", "index", "generate"]
    assert bench.statuses()["generate"] == "done"
    assert bench.statuses()["split"] == "waiting"


def test_an_interrupted_run_goes_on_and_looks_undisturbed(bench: Bench) -> None:
    executor = CommittingExecutor(bench.store)
    executor.interrupt_at = "answer"
    with pytest.raises(Interrupted):
        bench.run(executor=executor)
    assert executor.stopped
    assert bench.statuses()["answer"] == "waiting"
    assert bench.run() == ["answer", "evaluate", "report"]
    assert {bench.statuses()[name] for name in ALL} == {"done"}  # not "cached": one run, in two sittings


def test_a_truncated_artifact_is_computed_again(bench: Bench) -> None:
    stable = frozenset(ALL)
    bench.run(executor=CommittingExecutor(bench.store, stable))
    record = load_run(bench.store, "small")
    assert record is not None
    manifest = find(bench.store, "split", record.stages["split"].key or "")
    assert manifest is not None
    entry = manifest.artifacts["val_questions"][0]
    Path(bench.store.url, manifest.object_name("val_questions", entry)).write_bytes(b"s")
    assert (
        bench.plan()["split"].why == "its artifact is damaged: val_questions/rows.jsonl has 1 bytes, 4 were committed"
    )
    assert bench.run(executor=CommittingExecutor(bench.store, stable)) == ["split"]
    assert bench.run() == []


def test_plan_changes_nothing(bench: Bench) -> None:
    bench.plan()
    assert list(bench.store.list("")) == []


def test_missing_documents_and_questions_are_both_named(bench: Bench) -> None:
    with pytest.raises(InputError) as raised:
        bench.run("corpus.paths=[nowhere.pdf]", "questions.path=gone.jsonl")
    assert "nowhere.pdf" in str(raised.value)
    assert "gone.jsonl" in str(raised.value)


def manifest_of(bench: Bench, stage: str) -> Path:
    record = load_run(bench.store, "small")
    assert record is not None
    return Path(bench.store.url, "artifacts", stage, record.stages[stage].key or "", "manifest.json")


def test_a_manifest_that_cannot_be_read_is_replaced(bench: Bench) -> None:
    stable = frozenset(ALL)
    bench.run(executor=CommittingExecutor(bench.store, stable))
    path = manifest_of(bench, "augment")
    path.write_bytes(b'{"format": 1, "stage"')
    assert "cannot be read" in bench.plan()["augment"].why
    assert bench.run(executor=CommittingExecutor(bench.store, stable)) == ["augment"]
    assert bench.run() == []


def test_a_flipped_bit_in_the_results_is_found_withdrawn_and_mended(bench: Bench) -> None:
    stable = frozenset(ALL)
    bench.run(executor=CommittingExecutor(bench.store, stable))
    results = next(manifest_of(bench, "evaluate").parent.glob("*/results/results.json"))
    results.write_bytes(results.read_bytes().replace(b"base", b"bass"))
    with pytest.raises(CorruptArtifact, match="run again"):
        bench.run()
    record = load_run(bench.store, "small")
    assert record is not None
    assert record.status == "failed"
    assert bench.run(executor=CommittingExecutor(bench.store, stable)) == ["evaluate"]


def test_a_lost_result_json_costs_its_figures_only(bench: Bench) -> None:
    bench.run()
    next(manifest_of(bench, "split").parent.glob("*/result.json")).write_text("{")
    assert bench.run() == []


def test_a_forced_stage_that_fails_leaves_the_old_artifact(bench: Bench) -> None:
    bench.run()
    executor = CommittingExecutor(bench.store)
    executor.failing["finetune_lm"] = Outcome(JobState.FAILED, 1)
    with pytest.raises(StageFailed):
        bench.run(force=["finetune_lm"], executor=executor)
    assert manifest_of(bench, "finetune_lm").exists()
    assert bench.run() == []


def test_the_first_of_two_failures_is_reported(bench: Bench) -> None:
    executor = CommittingExecutor(bench.store, rooms=4)
    executor.failing["index"] = Outcome(JobState.FAILED, 7)
    executor.failing["generate"] = Outcome(JobState.FAILED, 9)
    with pytest.raises(StageFailed, match="exit code 7"):
        bench.run(executor=executor)


def test_models_are_looked_at_before_anything_runs(bench: Bench) -> None:
    def no_such_model(model: Model) -> str:
        raise InputError("this folder is not a model", where=model.name)

    loaded = load_config(bench.folder / "small.yaml")
    executor = CommittingExecutor(bench.store)
    with pytest.raises(InputError, match="not a model"):
        Controller(loaded, bench.store, no_such_model, run="small").run(executor)
    assert executor.started == []


def test_gc_spares_what_a_run_had_before_it_was_started_again(bench: Bench) -> None:
    bench.run()
    bench.run(until="split")  # the tuned model is still the run's
    assert unreferenced(bench.store) == {}
    bench.run("finetune_lm.epochs=1")
    gone = {name.split("/")[0] for name in unreferenced(bench.store)}
    assert gone == {"finetune_lm", "answer", "evaluate", "report"}


def test_gc_spares_the_checkpoint_of_an_interrupted_run(bench: Bench) -> None:
    executor = CommittingExecutor(bench.store)
    executor.interrupt_at = "finetune_lm"
    with pytest.raises(Interrupted):
        bench.run(executor=executor)
    key = manifest_of(bench, "finetune_lm").parent.name
    (bench.store.scratch(f"finetune_lm/{key}") / "checkpoint").write_text("12")
    (bench.store.scratch("finetune_lm/other") / "checkpoint").write_text("12")
    assert [name for name in unreferenced(bench.store) if "finetune_lm" in name] == ["scratch/finetune_lm/other"]


def test_how_a_stage_stands_is_saved_for_status(bench: Bench) -> None:
    waits = Condition("pending", "no node has a GPU", n_shards=4, n_retries=1)
    executor = CommittingExecutor(bench.store)
    executor.conditions["index"] = [waits]
    executor.interrupt_at = "index"
    with pytest.raises(Interrupted):
        bench.run(executor=executor)
    record = load_run(bench.store, "small")
    assert record is not None
    assert record.stages["index"].condition == asdict(waits)
    assert record.stages["index"].why == "the controller stopped before it ended. Come again."
    assert record.stages["ingest"].condition is None


def test_stages_are_divided_among_pods_but_not_among_processes(bench: Bench) -> None:
    overrides = ("kubernetes.stages.answer.shards=3",)
    on_pods = CommittingExecutor(bench.store, name="kubernetes")
    bench.run(*overrides, executor=on_pods)
    assert {stage: spec.shards for stage, spec in on_pods.specs.items() if spec.shards > 1} == {"answer": 3}
    here = CommittingExecutor(bench.store)
    bench.run(*overrides, force=["answer"], executor=here)
    assert here.specs["answer"].shards == 1
    assert here.specs["answer"].key == on_pods.specs["answer"].key


def test_a_stage_spans_pods_but_not_processes(bench: Bench) -> None:
    overrides = ("finetune_lm.nodes=3",)
    on_pods = CommittingExecutor(bench.store, name="kubernetes")
    bench.run(*overrides, executor=on_pods)
    assert {stage: spec.nodes for stage, spec in on_pods.specs.items() if spec.nodes > 1} == {"finetune_lm": 3}
    here = CommittingExecutor(bench.store)
    bench.run(*overrides, force=["finetune_lm"], executor=here)
    assert here.specs["finetune_lm"].nodes == 1
    assert here.specs["finetune_lm"].key == on_pods.specs["finetune_lm"].key
    loaded = load_config(bench.folder / "small.yaml", overrides)
    planner = Planner(loaded, bench.store, bench._identity_of, None)
    assert planner.job_of("finetune_lm", "small").nodes == 3  # for a Job that is applied by hand
    row = next(row for row in CATALOG if row.spans_nodes)
    assert (nodes_of(row, loaded.config), nodes_of(CATALOG[0], loaded.config)) == (3, 1)


def test_memory_is_counted_for_each_training_process_of_a_machine_or_pod(bench: Bench) -> None:
    plain = {row.name: row.memory_gib for row in CATALOG}
    overrides = ("finetune_lm.nodes=3", "finetune_lm.processes_per_node=2")
    for name, n_processes in (("kubernetes", 2), ("local", 6)):
        executor = CommittingExecutor(bench.store, name=name)
        bench.run(*overrides, force=["finetune_lm"], executor=executor)
        asked = {stage: spec.resources.memory_gib / plain[stage] for stage, spec in executor.specs.items()}
        assert asked.pop("finetune_lm") == n_processes
        assert set(asked.values()) <= {1}
    one_node = ("finetune_lm.processes_per_node=2",)
    executor = CommittingExecutor(bench.store, name="kubernetes")
    bench.run(*one_node, force=["finetune_lm"], executor=executor)
    assert executor.specs["finetune_lm"].resources.memory_gib == 2 * plain["finetune_lm"]


def test_a_stage_alone_is_described_once_its_inputs_are_there(bench: Bench) -> None:
    loaded = load_config(bench.folder / "small.yaml")

    def planner() -> Planner:
        return Planner(loaded, bench.store, bench._identity_of, load_run(bench.store, "small"))

    with pytest.raises(ConfigError, match="index reads what ingest writes, which is not in the store"):
        planner().job_of("index", "small")
    executor = CommittingExecutor(bench.store)
    bench.run(until="index", executor=executor)
    assert planner().job_of("index", "small") == executor.specs["index"]
    assert planner().job_of("generate", "small").inputs[0].artifact == "chunks"


def test_a_run_on_another_machine_counts_as_alive_while_its_heart_beats(bench: Bench) -> None:
    bench.run()
    record = load_run(bench.store, "small")
    assert record is not None
    record.status = "running"
    assert is_cut_off(bench.store, record)
    with heartbeat(bench.store, "small"):
        assert not is_cut_off(bench.store, record)
    assert is_cut_off(bench.store, record)
    bench.store.write("runs/small/alive/another", b"")
    os.utime(Path(bench.store.url, "runs/small/alive/another"), (0, 0))
    assert is_cut_off(bench.store, record)


def test_a_forced_stage_that_is_done_is_not_forced_again_by_the_run_that_goes_on(bench: Bench) -> None:
    earlier = CommittingExecutor(bench.store)
    earlier.finished_at = "2000-01-01T00:00:00Z"
    bench.run(executor=earlier)
    cut_off = CommittingExecutor(bench.store)
    cut_off.interrupt_at = "evaluate"
    with pytest.raises(Interrupted):
        bench.run(force=["answer", "evaluate"], executor=cut_off)
    assert cut_off.started == ["answer", "evaluate"]
    assert bench.run(force=["answer", "evaluate"]) == ["evaluate"]
    assert bench.run(force=["answer"]) == ["answer"]


def test_what_kubernetes_has_tried_again_in_vain_is_final_for_the_controller(bench: Bench) -> None:
    for name, code in (("local", 75), ("kubernetes", 1)):
        executor = CommittingExecutor(bench.store, name=name)
        executor.failing["ingest"] = Outcome(JobState.FAILED, 75, TryAgainError("the hub is busy").to_json())
        with pytest.raises(RaditError, match="the hub is busy") as raised:
            bench.run(executor=executor)
        assert raised.value.exit_code == code


def test_another_configuration_waits_for_a_controller_of_the_same_run(bench: Bench) -> None:
    executor = CommittingExecutor(bench.store)
    executor.interrupt_at = "index"
    with pytest.raises(Interrupted):
        bench.run(executor=executor)
    record = load_run(bench.store, "small")
    assert record is not None
    record.status = "running"  # as if its controller had been killed, or ran on another machine
    save_run(bench.store, record)
    bench.controller("seed=8").refuse_another_configuration()  # it gave no sign of life
    with heartbeat(bench.store, "small"):
        bench.controller().refuse_another_configuration()
        with pytest.raises(TryAgainError, match="another configuration"):
            bench.controller("seed=8").refuse_another_configuration()
