"""What each stage of one run depends on, whether it must run, and the job that would run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from radit_job import observe
from radit_job.config.canonical import config_digest
from radit_job.config.fields import result_values
from radit_job.config.loading import LoadedConfig
from radit_job.config.schema import Config
from radit_job.config.slices import Slice
from radit_job.errors import ConfigError, CorruptArtifact, InputError
from radit_job.jobs import ArtifactRef, JobSpec, Resources
from radit_job.pipeline.catalog import CATALOG, StageRow
from radit_job.pipeline.graph import ancestors, artifact_name, check_stage, needed_rows, stages_before, unused_stages
from radit_job.pipeline.plan import Decision, IdentityOf, Ingredients, ingredients_of, key_of, why_run, why_waits
from radit_job.pipeline.runs import BEHIND_UNTIL, RunRecord
from radit_job.pipeline.sources import find_sources, publish_source
from radit_job.pipeline.spending import left_usd, paid_models, prices_of, read_books
from radit_job.store import ObjectStore
from radit_job.store.artifacts import Manifest, damage, find, read_result


def nodes_of(row: StageRow, config: Config) -> int:
    """Pods of a cluster that do a stage together."""
    return config.finetune_lm.nodes if row.spans_nodes else 1


def resources_of(row: StageRow, config: Config, nodes: int) -> Resources:
    """What one machine, or one pod of `nodes`, needs for a stage: each training process holds its own model."""
    tuning, n_processes = config.finetune_lm, 1
    if row.spans_nodes:  # without a cluster one machine has the processes of all
        n_processes = tuning.processes_per_node * (1 if nodes > 1 else tuning.nodes)
    models = [getattr(row.sees.of(config), name) for name in row.models]
    is_local = any(model is not None and model.provider != "openai" for model in models)
    return Resources(row.memory_gib * n_processes, row.is_heavy, row.loads_models and is_local)


class Planner:
    """Follows one run's chain through the store: what is committed, what must run, and why. Starts nothing."""

    def __init__(
        self,
        loaded: LoadedConfig,
        store: ObjectStore,
        identity_of: IdentityOf,
        previous: RunRecord | None,
        *,
        until: str | None = None,
        force: Sequence[str] = (),
        sources: Mapping[str, str] | None = None,
    ) -> None:
        for stage in force:
            check_stage(stage)
        self._loaded = loaded
        self._store = store
        self._identity_of = cache(identity_of)  # one answer per run: a hub may change its mind in between
        self._previous = previous
        self._force = set(force)
        self._sources = sources  # source artifact -> key, of a run whose documents are in the store; None: find them
        self.rows = needed_rows(loaded.config, until)
        self.unused = unused_stages(loaded.config)
        self.artifacts: dict[str, ArtifactRef] = {}  # what is committed so far, by artifact name

    def plan(self) -> Iterator[Decision]:
        """What a run would do, stage by stage; changes nothing."""
        self.locate_sources(publish=False)
        will_run: set[str] = set()
        for row in CATALOG:
            if row not in self.rows:
                yield Decision(row.name, "skipped", self.unused.get(row.name, BEHIND_UNTIL))
                continue
            before = [name for name in ancestors(row.name) if name in will_run]
            if before:
                nearest = [name for name in stages_before(row, self.rows) if name in will_run] or before
                why = why_waits(row, sorted(nearest), self._last_ingredients(row.name), result_values(self._slice(row)))
                yield Decision(row.name, "waits", why)
                will_run.add(row.name)
                continue
            decision, manifest = self.decide(row)
            if manifest is None:
                will_run.add(row.name)
            else:
                self.take(manifest)
            yield decision

    def job_of(self, stage: str, run: str) -> JobSpec:
        """The job of one stage whose inputs are all committed; its sources are put into the store.

        ConfigError where a stage before it has not run, or where the configuration has no use for the stage.
        """
        check_stage(stage)
        self.locate_sources(publish=True)
        keys: dict[str, str] = {}
        for row in self.rows:
            decision, manifest = self.decide(row)
            if row.name == stage:
                return self.spec(row, decision, run, keys, nodes=nodes_of(row, self._loaded.config))
            if manifest is None and row.name in ancestors(stage):
                todo = f"Run that first: radit run {self._loaded.path} --until {row.name}"
                raise ConfigError(f"{stage} reads what {row.name} writes, which is not in the store", todo=todo)
            if manifest is not None:
                self.take(manifest)
                keys[row.name] = manifest.key
        raise ConfigError(f"{stage} is not part of this run: {self.unused.get(stage, BEHIND_UNTIL)}")

    def decide(self, row: StageRow) -> tuple[Decision, Manifest | None]:
        """Run, or reuse what the manifest holds."""
        ingredients = self.ingredients(row)
        key = key_of(ingredients)
        manifest, trouble = self._find_sound(row.name, key)
        if trouble:
            return Decision(row.name, "run", trouble, key, replace=True), None
        if row.name in self._force and not self._is_done_anew(row.name, manifest):
            return Decision(row.name, "run", "forced", key, replace=True), None
        if manifest is None:
            why = why_run(self._last_ingredients(row.name), ingredients, ended=self._ended_last_time(row.name))
            return Decision(row.name, "run", why, key), None
        return Decision(row.name, "cached", "nothing that it depends on changed", key), manifest

    def take(self, manifest: Manifest) -> None:
        """From now on a committed stage's artifacts are inputs of the ones behind it."""
        for artifact in manifest.artifacts:
            digest = manifest.digest_of(artifact)
            self.artifacts[artifact] = ArtifactRef(artifact, manifest.stage, manifest.key, digest)

    def spec(
        self,
        row: StageRow,
        decision: Decision,
        run: str,
        keys: Mapping[str, str],
        *,
        shards: int = 1,
        nodes: int = 1,
    ) -> JobSpec:
        """The job of a stage that is to run; `keys` are those of the stages before it.

        `shards`, `nodes`: the pods of a cluster that do it; on one machine both are 1.
        """
        behind = ancestors(row.name) if row.wants_lineage else set()
        inputs = [self.artifacts[name] for name in map(artifact_name, row.reads) if name in self.artifacts]
        return JobSpec(
            run=run,
            stage=row.name,
            stage_version=row.version,
            key=str(decision.key),
            config=self._slice(row).model_dump(mode="json"),
            inputs=tuple(inputs),
            lineage=tuple((name, key) for name, key in keys.items() if name in behind),
            resources=resources_of(row, self._loaded.config, nodes),
            shards=shards,
            nodes=nodes,
            replace=decision.replace,
            budget_usd=left_usd(row, str(decision.key), self._loaded.config, read_books(self._store, run)),
            prices=prices_of(self._loaded.config) if paid_models(row, self._loaded.config) else {},
        )

    def locate_sources(self, *, publish: bool) -> dict[str, str]:
        """Find the user's files and, with `publish`, put them into the store; source artifact -> key."""
        if self._sources is not None:
            return self._stored_sources(self._sources)
        keys = {}
        with observe.progress("reading the documents", unit="sources") as bar:
            for source in find_sources(self._loaded.config, self._loaded.folder):
                if publish:
                    publish_source(self._store, source)
                self.artifacts[source.artifact] = source.reference
                keys[source.artifact] = source.key
                bar.advance()
        return keys

    def _stored_sources(self, keys: Mapping[str, str]) -> dict[str, str]:
        for artifact, key in keys.items():
            manifest = find(self._store, artifact, key)
            if manifest is None:
                todo = "Name the configuration file instead of the run: its documents are read anew."
                raise InputError(f"the run's {artifact.replace('_', ' ')} is not in the store", where=key, todo=todo)
            self.take(manifest)
        return dict(keys)

    def identify_models(self) -> None:
        """Every model that will be needed is looked at before anything is spent."""
        for row in self.rows:
            ingredients_of(row, self._loaded.config, {}, self._identity_of)

    def ingredients(self, row: StageRow) -> Ingredients:
        """What the stage's key is made of, as far as its inputs are known."""
        return ingredients_of(row, self._loaded.config, self.artifacts, self._identity_of)

    def _find_sound(self, stage: str, key: str) -> tuple[Manifest | None, str]:
        """The committed manifest if its files are all there; else what is wrong with it, in words."""
        try:
            manifest = find(self._store, stage, key)
        except CorruptArtifact as error:
            return None, error.what
        trouble = damage(self._store, manifest) if manifest else None
        return (None, f"its artifact is damaged: {trouble}") if trouble else (manifest, "")

    def _is_done_anew(self, stage: str, manifest: Manifest | None) -> bool:
        """Whether the run that this one goes on with was told to force the stage, too, and has done so."""
        previous = self._previous
        if previous is None or manifest is None or previous.status == "done" or stage not in previous.force:
            return False
        if previous.config_digest != config_digest(self._loaded.config):
            return False
        result = read_result(self._store, manifest)
        return result.get("run") == previous.run and str(result.get("finished_at")) > previous.started_at

    def _slice(self, row: StageRow) -> Slice:
        return row.sees.of(self._loaded.config)

    def _last_ingredients(self, stage: str) -> Ingredients | None:
        record = self._previous.stages.get(stage) if self._previous else None
        return record.ingredients if record else None

    def _ended_last_time(self, stage: str) -> bool:
        record = self._previous.stages.get(stage) if self._previous else None
        return record is not None and record.status in ("done", "cached", "skipped")
