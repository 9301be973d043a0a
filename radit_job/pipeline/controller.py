"""The one loop: start what is ready, wait for what runs, settle what ended.

It decides on exit codes and manifests only. Everything it knows is in the store, so a controller that was killed is
replaced by the next one: what is committed is reused, what is not is computed again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from radit_job.config.canonical import config_digest
from radit_job.config.loading import LoadedConfig
from radit_job.errors import Interrupted, RaditError, TryAgainError
from radit_job.executors.base import Executor
from radit_job.jobs import Condition, JobState, Outcome
from radit_job.observe.events import emit
from radit_job.pipeline.catalog import CATALOG, StageRow
from radit_job.pipeline.graph import stages_before
from radit_job.pipeline.heartbeat import is_alive
from radit_job.pipeline.names import run_file, spec_file
from radit_job.pipeline.outputs import error_of, publish_results
from radit_job.pipeline.plan import Decision, IdentityOf
from radit_job.pipeline.planner import Planner, nodes_of, resources_of
from radit_job.pipeline.runs import BEHIND_UNTIL, RunRecord, StageRecord, load_run, now, save_run
from radit_job.pipeline.spending import drop_books, paid_models
from radit_job.store import ObjectStore
from radit_job.store.artifacts import Manifest, find, read_result

SAVE_INTERVAL_S = 1.0  # conditions are for eyes: a thousand shards must not write run.json a thousand times


class Controller:
    """Chains the stages of one run."""

    def __init__(
        self,
        loaded: LoadedConfig,
        store: ObjectStore,
        identity_of: IdentityOf,
        *,
        run: str,
        until: str | None = None,
        force: Sequence[str] = (),
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self._loaded = loaded
        self._store = store
        self._previous = load_run(store, run)
        self._planner = Planner(loaded, store, identity_of, self._previous, until=until, force=force, sources=sources)
        self._record = self._new_record(run)
        self._record.force = list(force)
        self._saved_at_s = 0.0

    def plan(self) -> Iterator[Decision]:
        """What `run` would do, stage by stage; changes nothing."""
        return self._planner.plan()

    def refuse_another_configuration(self) -> None:
        """TryAgainError while a controller of this run, on another machine, wants something else.

        Two that want the same share its Jobs. Ask before giving a sign of life of one's own.
        """
        previous = self._previous
        if previous is None or previous.status != "running" or previous.config_digest == self._record.config_digest:
            return
        if is_alive(self._store, previous.run):
            raise TryAgainError(
                f"a controller runs {previous.run!r} with another configuration",
                where=self._store.url.partition("?")[0],
                todo="Take another name (--name), or wait for it, or cancel it: radit cancel " + previous.run,
            )

    def run(self, executor: Executor) -> RunRecord:
        """Run what must run; returns the finished record, or raises the first failed stage's error."""
        self._record.executor, self._record.context = executor.name, executor.context
        self._record.namespace = executor.namespace
        self._record.controller_job = os.environ.get("RADIT_CONTROLLER_JOB")
        self._begin_books()
        self._save()
        self._store.write(run_file(self._record.run, "config.yaml"), self._loaded.text.encode())
        error: RaditError | None = None
        try:
            self._record.sources = self._planner.locate_sources(publish=True)
            self._save()  # before anything refers to them: `radit gc` spares what a run names
            self._planner.identify_models()
            error = self._loop(executor)
            publish_results(self._store, self._record, self._planner.artifacts)
        except RaditError as raised:
            error = raised
        except KeyboardInterrupt:
            error = Interrupted("stopped", todo=f"{executor.afterwards}{self._elsewhere()}")
        finally:
            executor.stop()
        self._finish(error, executor.afterwards)
        if error:
            raise error
        return self._record

    def _loop(self, executor: Executor) -> RaditError | None:
        error: RaditError | None = None
        while True:
            if error is None:
                self._start_ready(executor)
            if "running" not in {stage.status for stage in self._record.stages.values()}:
                return error
            for stage, news in executor.wait():
                if isinstance(news, Condition):
                    self._note(stage, news)
                else:
                    failure = self._settle(stage, news, had_retries=executor.name == "kubernetes")
                    error = error or failure

    def _start_ready(self, executor: Executor) -> None:
        """Reuse or start every stage whose inputs are there; reusing one can make the next one ready."""
        for row in self._planner.rows:
            record = self._record.stages[row.name]
            before = stages_before(row, self._planner.rows)
            if record.status != "waiting" or any(
                self._record.stages[name].status not in ("done", "cached") for name in before
            ):
                continue
            decision, manifest = self._planner.decide(row)
            if manifest is not None:
                self._reuse(row, decision, manifest)
            elif self._must_wait_for_the_budget(row):
                continue
            elif executor.has_room(resources_of(row, self._loaded.config, self._nodes(executor, row))):
                self._start(executor, row, decision)

    def _nodes(self, executor: Executor, row: StageRow) -> int:
        """Pods that do the stage together; on this machine its processes do."""
        return nodes_of(row, self._loaded.config) if executor.name == "kubernetes" else 1

    def _must_wait_for_the_budget(self, row: StageRow) -> bool:
        """Whether another stage that may pay runs: what it will spend is not known before it ends."""
        config = self._loaded.config
        if config.spending.budget_usd is None or not paid_models(row, config):
            return False
        running = [other for other in self._planner.rows if self._record.stages[other.name].status == "running"]
        return any(paid_models(other, config) for other in running)

    def _start(self, executor: Executor, row: StageRow, decision: Decision) -> None:
        record = self._record.stages[row.name]
        # A stage that this configuration skips keeps the key it had last; what it wrote then is not behind this one.
        ended = [item for item in self._record.stages.values() if item.status in ("done", "cached")]
        keys = {item.stage: item.key for item in ended if item.key}
        shards = self._loaded.config.kubernetes.placement(row.name).shards if executor.name == "kubernetes" else 1
        nodes = self._nodes(executor, row)
        spec = self._planner.spec(row, decision, self._record.run, keys, shards=shards, nodes=nodes)
        spec_name = spec_file(self._record.run, row.name, spec.key)
        self._store.write(spec_name, json.dumps(spec.to_json(), indent=1, ensure_ascii=False).encode())
        record.status, record.why, record.key, record.condition = "running", decision.why, decision.key, None
        record.ingredients = self._planner.ingredients(row)
        self._save()
        emit("stage_started", stage=row.name, key=decision.key, why=decision.why)
        executor.start(spec, spec_name)

    def _reuse(self, row: StageRow, decision: Decision, manifest: Manifest) -> None:
        record = self._record.stages[row.name]
        result = read_result(self._store, manifest)
        is_ours = result.get("run") == self._record.run and str(result.get("finished_at")) >= self._record.started_at
        record.status = "done" if is_ours and self._is_resumed() else "cached"
        record.why, record.key, record.seconds = decision.why, decision.key, result.get("seconds")
        record.spent = result.get("spent")
        record.ingredients = self._planner.ingredients(row)
        self._planner.take(manifest)
        self._save()
        emit("stage_cached", stage=record.stage, key=decision.key, seconds=record.seconds)

    def _note(self, stage: str, condition: Condition) -> None:
        """Tell how a stage stands, now and to `radit status`."""
        plain = asdict(condition)
        self._record.stages[stage].condition = plain
        emit("stage_condition", stage=stage, **plain)
        if time.monotonic() - self._saved_at_s >= SAVE_INTERVAL_S:
            self._save()

    def _settle(self, stage: str, outcome: Outcome, *, had_retries: bool) -> RaditError | None:
        """Record how a stage ended; returns the error if it failed."""
        record = self._record.stages[stage]
        manifest = find(self._store, stage, record.key or "") if outcome.state is JobState.SUCCEEDED else None
        if manifest is None:
            error = error_of(stage, outcome, had_retries=had_retries)
            record.status, record.why = "failed", str(error)
            emit("stage_failed", stage=stage, error=error.to_json())
            self._save()
            return error
        result = read_result(self._store, manifest)
        record.status, record.seconds, record.spent = "done", result.get("seconds"), result.get("spent")
        self._planner.take(manifest)
        emit("stage_done", stage=stage, key=record.key, seconds=record.seconds, counters=result.get("counters"))
        self._save()
        return None

    def _elsewhere(self) -> str:
        """What goes on although this run has stopped."""
        tuning = self._loaded.config.finetune_lm
        if tuning.engine != "openai" or self._record.stages["finetune_lm"].status != "running":
            return ""
        return f" The fine-tuning job goes on at the service: `radit cancel {self._record.run}` ends it."

    def _finish(self, error: RaditError | None, afterwards: str) -> None:
        for record in self._record.stages.values():
            if record.status == "running":
                record.status, record.why = "waiting", f"the controller stopped before it ended. {afterwards}"
        self._record.status = "interrupted" if isinstance(error, Interrupted) else "failed" if error else "done"
        self._record.error = error.to_json() if error else None
        self._record.finished_at = now()
        self._save()

    def _begin_books(self) -> None:
        """When a run is over, so is its budget. The books go first, and that may be done twice."""
        last = load_run(self._store, self._record.run)  # anew: another controller may have begun since
        if last is not None and last.is_over:
            drop_books(self._store, self._record.run)

    def _save(self) -> None:
        save_run(self._store, self._record)
        self._saved_at_s = time.monotonic()

    def _is_resumed(self) -> bool:
        """Whether this run goes on with one that was cut off under the same configuration."""
        previous, digest = self._previous, config_digest(self._loaded.config)
        return previous is not None and previous.status != "done" and previous.config_digest == digest

    def _new_record(self, run: str) -> RunRecord:
        """Nothing has happened yet; what the stages were last time is kept, for `plan` to compare and `gc` to spare."""
        record = RunRecord(run, config_digest(self._loaded.config), "", now())
        record.budget_usd = self._loaded.config.spending.budget_usd
        if self._previous is not None and self._is_resumed():
            record.started_at = self._previous.started_at
        wanted = {row.name for row in self._planner.rows}
        for row in CATALOG:
            last = self._previous.stages.get(row.name) if self._previous else None
            stage = record.stages[row.name] = replace(last or StageRecord(row.name), status="waiting", why="")
            stage.condition = None
            if row.name not in wanted:
                stage.status, stage.why = "skipped", self._planner.unused.get(row.name, BEHIND_UNTIL)
        return record
