"""The one loop: start what is ready, wait for what runs, settle what ended.

It decides on exit codes and manifests only. Everything it knows is in the store, so a controller that was killed is
replaced by the next one: what is committed is reused, what is not is computed again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from radit_job import observe
from radit_job.config.canonical import config_digest
from radit_job.config.loading import LoadedConfig
from radit_job.errors import CorruptArtifact, Interrupted, RaditError, StageFailed, error_from_json
from radit_job.executors.base import Executor
from radit_job.jobs import ArtifactRef, JobSpec, JobState, Outcome, Resources
from radit_job.observe.events import emit
from radit_job.pipeline.catalog import CATALOG, StageRow
from radit_job.pipeline.graph import ancestors, artifact_name, check_stage, needed_rows, stages_before, unused_stages
from radit_job.pipeline.plan import Decision, IdentityOf, Ingredients, ingredients_of, key_of, why_run, why_waits
from radit_job.pipeline.runs import RunRecord, StageRecord, load_run, now, run_file, save_run
from radit_job.pipeline.sources import find_sources, publish_source
from radit_job.store import ObjectStore
from radit_job.store.artifacts import Manifest, damage, fetch, find, read_result


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
    ) -> None:
        for stage in force:
            check_stage(stage)
        self._loaded = loaded
        self._store = store
        self._identity_of = cache(identity_of)  # one answer per run: a hub may change its mind in between
        self._rows = needed_rows(loaded.config, until)
        self._force = set(force)
        self._artifacts: dict[str, ArtifactRef] = {}  # what is committed so far, by artifact name
        self._previous = load_run(store, run)
        self._record = self._new_record(run)

    def plan(self) -> Iterator[Decision]:
        """What `run` would do, stage by stage; changes nothing."""
        self._locate_sources(publish=False)
        will_run: set[str] = set()
        for row in CATALOG:
            if row not in self._rows:
                yield Decision(row.name, "skipped", unused_stages(self._loaded.config).get(row.name, "behind --until"))
                continue
            before = [name for name in ancestors(row.name) if name in will_run]
            if before:
                nearest = [name for name in stages_before(row, self._rows) if name in will_run] or before
                yield Decision(
                    row.name,
                    "waits",
                    why_waits(row, sorted(nearest), self._last_ingredients(row.name), self._sees(row)),
                )
                will_run.add(row.name)
                continue
            decision, manifest = self._decide(row)
            if manifest is None:
                will_run.add(row.name)
            else:
                self._take(manifest)
            yield decision

    def run(self, executor: Executor) -> RunRecord:
        """Run what must run; returns the finished record, or raises the first failed stage's error."""
        save_run(self._store, self._record)
        self._store.write(run_file(self._record.run, "config.yaml"), self._loaded.text.encode())
        error: RaditError | None = None
        try:
            self._locate_sources(publish=True)
            self._identify_models()
            error = self._loop(executor)
            self._publish_results()
        except RaditError as raised:
            error = raised
        except KeyboardInterrupt:
            error = Interrupted("stopped", todo="What is committed is kept; the same command goes on from there.")
        finally:
            executor.stop()
        self._finish(error)
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
            for stage, outcome in executor.wait():
                failure = self._settle(stage, outcome)
                error = error or failure

    def _start_ready(self, executor: Executor) -> None:
        """Reuse or start every stage whose inputs are there; reusing one can make the next one ready."""
        for row in self._rows:
            record = self._record.stages[row.name]
            before = stages_before(row, self._rows)
            if record.status != "waiting" or any(
                self._record.stages[name].status not in ("done", "cached") for name in before
            ):
                continue
            resources = Resources(row.memory_gib, row.is_heavy)
            decision, manifest = self._decide(row)
            if manifest is not None:
                self._reuse(record, decision, manifest)
            elif executor.has_room(resources):
                self._start(executor, row, decision, resources)

    def _decide(self, row: StageRow) -> tuple[Decision, Manifest | None]:
        """Run, or reuse what the manifest holds."""
        ingredients = self._ingredients(row)
        key = key_of(ingredients)
        manifest, trouble = self._find_sound(row.name, key)
        if trouble:
            return Decision(row.name, "run", trouble, key, replace=True), None
        if row.name in self._force:
            return Decision(row.name, "run", "forced", key, replace=True), None
        if manifest is None:
            why = why_run(self._last_ingredients(row.name), ingredients, ended=self._ended_last_time(row.name))
            return Decision(row.name, "run", why, key), None
        return Decision(row.name, "cached", "nothing that it depends on changed", key), manifest

    def _find_sound(self, stage: str, key: str) -> tuple[Manifest | None, str]:
        """The committed manifest if its files are all there; else what is wrong with it, in words."""
        try:
            manifest = find(self._store, stage, key)
        except CorruptArtifact as error:
            return None, error.what
        trouble = damage(self._store, manifest) if manifest else None
        return (None, f"its artifact is damaged: {trouble}") if trouble else (manifest, "")

    def _start(self, executor: Executor, row: StageRow, decision: Decision, resources: Resources) -> None:
        assert decision.key is not None  # noqa: S101 - only a stage that waits has none
        record = self._record.stages[row.name]
        spec = self._spec(row, decision, resources)
        spec_name = run_file(self._record.run, f"jobs/{row.name}.json")
        self._store.write(spec_name, json.dumps(spec.to_json(), indent=1, ensure_ascii=False).encode())
        record.status, record.why, record.key = "running", decision.why, decision.key
        record.ingredients = self._ingredients(row)
        save_run(self._store, self._record)
        emit("stage_started", stage=row.name, key=decision.key, why=decision.why)
        executor.start(spec, spec_name)

    def _spec(self, row: StageRow, decision: Decision, resources: Resources) -> JobSpec:
        behind = ancestors(row.name) if row.wants_lineage else set()
        lineage = [(name, record.key) for name, record in self._record.stages.items() if name in behind and record.key]
        inputs = [self._artifacts[name] for name in map(artifact_name, row.reads) if name in self._artifacts]
        return JobSpec(
            run=self._record.run,
            stage=row.name,
            stage_version=row.version,
            key=str(decision.key),
            config=self._sees(row),
            inputs=tuple(inputs),
            lineage=tuple(lineage),
            resources=resources,
            replace=decision.replace,
        )

    def _reuse(self, record: StageRecord, decision: Decision, manifest: Manifest) -> None:
        result = read_result(self._store, manifest)
        is_ours = result.get("run") == self._record.run and str(result.get("finished_at")) >= self._record.started_at
        record.status = "done" if is_ours and self._is_resumed() else "cached"
        record.why, record.key, record.seconds = decision.why, decision.key, result.get("seconds")
        row = next(row for row in self._rows if row.name == record.stage)
        record.ingredients = self._ingredients(row)
        self._take(manifest)
        emit("stage_cached", stage=record.stage, key=decision.key, seconds=record.seconds)

    def _settle(self, stage: str, outcome: Outcome) -> RaditError | None:
        """Record how a stage's process ended; returns the error if it failed."""
        record = self._record.stages[stage]
        manifest = find(self._store, stage, record.key or "") if outcome.state is JobState.SUCCEEDED else None
        if manifest is None:
            error = _error_of(stage, outcome)
            record.status, record.why = "failed", str(error)
            emit("stage_failed", stage=stage, error=error.to_json())
            save_run(self._store, self._record)
            return error
        result = read_result(self._store, manifest)
        record.status, record.seconds = "done", result.get("seconds")
        self._take(manifest)
        emit("stage_done", stage=stage, key=record.key, seconds=record.seconds, counters=result.get("counters"))
        save_run(self._store, self._record)
        return None

    def _take(self, manifest: Manifest) -> None:
        for artifact in manifest.artifacts:
            self._artifacts[artifact] = ArtifactRef(
                artifact, manifest.stage, manifest.key, manifest.digest_of(artifact)
            )

    def _finish(self, error: RaditError | None) -> None:
        for record in self._record.stages.values():
            if record.status == "running":
                record.status, record.why = "waiting", "stopped before it ended"
        self._record.status = "interrupted" if isinstance(error, Interrupted) else "failed" if error else "done"
        self._record.error = error.to_json() if error else None
        self._record.finished_at = now()
        save_run(self._store, self._record)

    def _publish_results(self) -> None:
        """Write results.json and report.html beside the run, as far as their stages have come."""
        results = self._artifacts.get("results")
        if results is not None:
            measured = json.loads(self._read_file(results, "results.json"))
            whole = results_of(self._record, self._store.url, measured)
            self._store.write(
                run_file(self._record.run, "results.json"), json.dumps(whole, indent=1, ensure_ascii=False).encode()
            )
        report = self._artifacts.get("report")
        if report is not None:
            self._store.write(run_file(self._record.run, "report.html"), self._read_file(report, "report.html"))

    def _read_file(self, reference: ArtifactRef, name: str) -> bytes:
        manifest = find(self._store, reference.stage, reference.key)
        if manifest is None:
            raise CorruptArtifact(
                f"the artifact of {reference.stage} is gone", where=self._store.url, todo="Run again."
            )
        with tempfile.TemporaryDirectory(prefix="radit-") as folder:
            return (fetch(self._store, manifest, reference.artifact, Path(folder)) / name).read_bytes()

    def _locate_sources(self, *, publish: bool) -> None:
        with observe.progress("reading the documents", unit="sources") as bar:
            for source in find_sources(self._loaded.config, self._loaded.folder):
                if publish:
                    publish_source(self._store, source)
                self._artifacts[source.artifact] = source.reference
                self._record.sources[source.artifact] = source.key
                bar.advance()

    def _identify_models(self) -> None:
        """Every model that will be needed is looked at before anything is spent."""
        for row in self._rows:
            ingredients_of(row, self._loaded.config, {}, self._identity_of)

    def _ingredients(self, row: StageRow) -> Ingredients:
        return ingredients_of(row, self._loaded.config, self._artifacts, self._identity_of)

    def _sees(self, row: StageRow) -> dict[str, Any]:
        return row.sees.of(self._loaded.config).model_dump(mode="json")

    def _last_ingredients(self, stage: str) -> Ingredients | None:
        record = self._previous.stages.get(stage) if self._previous else None
        return record.ingredients if record else None

    def _ended_last_time(self, stage: str) -> bool:
        record = self._previous.stages.get(stage) if self._previous else None
        return record is not None and record.status in ("done", "cached", "skipped")

    def _is_resumed(self) -> bool:
        """Whether this run goes on with one that was cut off under the same configuration."""
        previous, digest = self._previous, config_digest(self._loaded.config)
        return previous is not None and previous.status != "done" and previous.config_digest == digest

    def _new_record(self, run: str) -> RunRecord:
        """Nothing has happened yet; what the stages were last time is kept, for `plan` to compare and `gc` to spare."""
        record = RunRecord(run, config_digest(self._loaded.config), "local", now())
        if self._previous is not None and self._is_resumed():
            record.started_at = self._previous.started_at
        unused = unused_stages(self._loaded.config)
        wanted = {row.name for row in self._rows}
        for row in CATALOG:
            last = self._previous.stages.get(row.name) if self._previous else None
            stage = record.stages[row.name] = replace(last or StageRecord(row.name), status="waiting", why="")
            if row.name not in wanted:
                stage.status, stage.why = "skipped", unused.get(row.name, "behind --until")
        return record


def results_of(record: RunRecord, store_url: str, measured: dict[str, Any]) -> dict[str, Any]:
    """The run's results.json: what `evaluate` measured, and the state of the stages."""
    stages = [
        {"stage": item.stage, "key": item.key, "status": item.status, "seconds": item.seconds}
        for item in record.stages.values()
    ]
    return {
        "format": 1,
        "run": record.run,
        "store": store_url,
        "config_digest": record.config_digest,
        "arms": measured["arms"],
        "rows": measured["rows"],
        "pairs": measured["pairs"],
        "stages": stages,
    }


def _error_of(stage: str, outcome: Outcome) -> RaditError:
    """The stage's own last word, or what its exit code tells."""
    if outcome.error is not None:
        error = error_from_json(outcome.error)
        error.where = error.where or stage
        return error
    if outcome.state is JobState.SUCCEEDED:
        return StageFailed("its process ended well but committed nothing", where=stage, todo=f"See {outcome.log}.")
    code = outcome.exit_code or 0
    if code in (-9, 137):
        return StageFailed(
            "its process was killed (signal 9)",
            where=stage,
            todo="If memory ran out, take a smaller batch_size or model; then run again: what is committed is kept.",
        )
    cause = f"signal {-code}" if code < 0 else f"exit code {code}"
    return StageFailed(
        f"its process ended with {cause} and said nothing", where=stage, todo=f"See {outcome.log}; then run again."
    )
