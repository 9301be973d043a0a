"""What the store keeps of a run: its configuration, the state of its stages, its results.

runs/<run>/config.yaml        as it was read, overrides included
runs/<run>/run.json           the state of every stage; rewritten at each change
runs/<run>/alive/...          touched by the controller of a remote store's run, as long as it lives
runs/<run>/jobs/...           the JobSpec of each stage that ran, by stage and key
runs/<run>/logs/<stage>.jsonl what each stage printed
runs/<run>/spent/...          what each stage's process has spent; see pipeline/spending.py
runs/<run>/results.json       rows, pairs and stages
runs/<run>/latency.json       what the benchmark last measured
runs/<run>/report.html        the page
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from radit_job.errors import ConfigError, CorruptArtifact, TryAgainError
from radit_job.pipeline.heartbeat import is_alive
from radit_job.pipeline.names import run_file, spec_file
from radit_job.store import ObjectStore

RUN_FORMAT = 1
StageStatus = Literal["waiting", "running", "done", "cached", "failed", "skipped"]
RunStatus = Literal["running", "done", "failed", "interrupted"]
BEHIND_UNTIL = "behind --until"  # why a stage was skipped that the configuration needs


@dataclass(slots=True)
class StageRecord:
    """One stage of a run."""

    stage: str
    status: StageStatus = "waiting"
    why: str = ""  # why it ran or was skipped; after a failure, the error
    key: str | None = None
    seconds: float | None = None  # what computing the artifact took, whenever that was
    ingredients: dict[str, Any] | None = None  # what the key is made of
    condition: dict[str, Any] | None = None  # how it stands while it runs: the fields of jobs.Condition
    spent: dict[str, Any] | None = None  # what the artifact cost when it was made, by model: the fields of Spent


@dataclass(slots=True)
class RunRecord:
    """One run."""

    run: str
    config_digest: str
    executor: str
    started_at: str
    status: RunStatus = "running"
    finished_at: str | None = None
    error: dict[str, Any] | None = None
    sources: dict[str, str] = field(default_factory=dict)  # source artifact -> key
    stages: dict[str, StageRecord] = field(default_factory=dict)
    context: str | None = None  # of the kubeconfig, where the stages ran as Jobs
    namespace: str | None = None
    controller_job: str | None = None  # the Job whose pod is the controller, if it is one
    force: list[str] = field(default_factory=list)  # stages that were to be computed anew
    budget_usd: float | None = None  # for all of the run's paid calls; None: no limit
    format: int = RUN_FORMAT

    @property
    def is_over(self) -> bool:
        """Whether all that its configuration needs is done: --until leaves a part of the run for later."""
        return self.status == "done" and all(stage.why != BEHIND_UNTIL for stage in self.stages.values())


def now() -> str:
    """UTC, to the second, as run.json and result.json write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def save_run(store: ObjectStore, record: RunRecord) -> None:
    """Write run.json."""
    store.write(run_file(record.run, "run.json"), json.dumps(asdict(record), indent=1, ensure_ascii=False).encode())


def load_run(store: ObjectStore, run: str) -> RunRecord | None:
    """The run's record, or None; CorruptArtifact where run.json cannot be read."""
    data = store.read(run_file(run, "run.json"))
    if data is None:
        return None
    try:
        plain = json.loads(data)
        stages = {name: StageRecord(**item) for name, item in plain.pop("stages").items()}
        return RunRecord(**plain, stages=stages)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"run.json cannot be read: {error}",
            where=f"{store.url}/runs/{run}",
            todo="Delete that folder; artifacts are kept elsewhere.",
        ) from error


def require_run(store: ObjectStore, run: str) -> RunRecord:
    """The run's record; ConfigError naming the runs there are where there is no such one."""
    record = load_run(store, run)
    if record is None:
        names = ", ".join(run_names(store)) or "none"
        raise ConfigError(
            f"there is no run {run!r}",
            where=store.url,
            todo=f"Runs in this store: {names}. Another store: --store, or RADIT_STORE.",
        )
    return record


def is_cut_off(store: ObjectStore, record: RunRecord) -> bool:
    """Whether the run's controller is gone without a word: it says running, but holds no lock and gives no sign."""
    if record.status != "running" or is_alive(store, record.run):
        return False
    try:
        with store.hold(f"run-{record.run}"):
            return True
    except TryAgainError:
        return False


def run_names(store: ObjectStore) -> list[str]:
    """All runs of a store."""
    return [info.name.split("/")[1] for info in store.list("runs/") if info.name.endswith("/run.json")]


def spec_keys(store: ObjectStore, run: str, stage: str) -> set[str]:
    """The stage's keys that a JobSpec of the run names: one is written for each key before its stage starts."""
    specs = [store.read(info.name) for info in store.list(spec_file(run, stage, "").removesuffix(".json"))]
    return {str(json.loads(data)["key"]) for data in specs if data is not None}


def load_results(store: ObjectStore, run: str) -> dict[str, Any]:
    """The run's results.json; ConfigError where it has none yet."""
    data = store.read(run_file(run, "results.json"))
    if data is None:
        record = require_run(store, run)
        raise ConfigError(
            f"run {run!r} has no results yet: it is {record.status}", where=store.url, todo=f"See `radit status {run}`."
        )
    plain: dict[str, Any] = json.loads(data)
    return plain


def load_latency(store: ObjectStore, run: str) -> dict[str, Any]:
    """The run's latency.json; ConfigError where its benchmark has never ended."""
    data = store.read(run_file(run, "latency.json"))
    if data is None:
        require_run(store, run)
        todo = f"`radit bench {run}` measures it."
        raise ConfigError(f"the latency of run {run!r} was never measured", where=store.url, todo=todo)
    plain: dict[str, Any] = json.loads(data)
    return plain


def log_events(store: ObjectStore, run: str, stage: str) -> Iterator[dict[str, Any]]:
    """The events that a stage printed, oldest first."""
    data = store.read(run_file(run, f"logs/{stage}.jsonl")) or b""
    for line in data.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # the last line of a log that is being written
