"""Stages as Jobs of a cluster. Its Jobs outlive the controller: the next one finds them by their names."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from radit_job import observe
from radit_job.config.cluster import Kubernetes
from radit_job.errors import RaditError
from radit_job.executors.kubernetes.announce import Announcer
from radit_job.executors.kubernetes.client import KubernetesClient
from radit_job.executors.kubernetes.following import Followers, keep_log
from radit_job.executors.kubernetes.manifest import APPLICATION, COMPONENT_LABEL, MANAGED_BY_LABEL, stage_job
from radit_job.executors.kubernetes.tracked import Surroundings, Tracked
from radit_job.executors.kubernetes.view import View, is_about, slim_event, slim_job, slim_pod
from radit_job.executors.kubernetes.watch import Change, Reflector
from radit_job.jobs import Condition, JobSpec, JobState, Outcome, Resources
from radit_job.store import ObjectStore

SELECTOR = f"{MANAGED_BY_LABEL}={APPLICATION},{COMPONENT_LABEL}=stage"
PROGRESS_INTERVAL_S = 5.0  # between conditions that tell only how far a stage is
LAST_TASKS_S = 5.0  # what `stop` gives to the logs and events of the stages that ended last

News = tuple[str, Outcome | Condition]


class KubernetesExecutor:
    """An Executor in one namespace of a cluster; the cluster alone decides what has room."""

    name = "kubernetes"
    afterwards = "The Jobs go on; the same command adopts them, `radit cancel RUN` deletes them."

    def __init__(self, client: KubernetesClient, settings: Kubernetes, store: ObjectStore) -> None:
        self._client = client
        self._settings = settings
        self._store = store
        self._view = View()
        self._around = Surroundings(client, settings, store, self._view)
        self._stages: dict[str, Tracked] = {}  # by stage
        self._changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._reflectors: list[Reflector] = []
        self._event_reflector: Reflector | None = None
        self._told: dict[str, tuple[Condition, float]] = {}  # by stage: the last condition, and when it was told
        self._followers = Followers(client)
        self._announcer = Announcer(client)
        self._background = _Background()

    @property
    def context(self) -> str | None:
        """See Executor."""
        return self._client.context

    @property
    def namespace(self) -> str | None:
        """See Executor."""
        return self._client.namespace

    def has_room(self, resources: Resources) -> bool:
        """See Executor; always: what does not fit waits in the cluster."""
        return True

    def start(self, spec: JobSpec, spec_name: str) -> None:
        """See Executor. What the cluster has against the Job is the stage's outcome, not an error here."""
        manifest = stage_job(spec, spec_name, self._settings, store_url=self._store.url)
        if not self._reflectors:
            self._watch()
        stage = self._stages[spec.stage] = Tracked(spec, manifest, self._around)
        stage.advance()

    def wait(self) -> list[News]:
        """See Executor."""
        while True:
            news = [item for stage in list(self._stages.values()) for item in self._news_of(stage)]
            if news:
                return news
            self._watch_events()
            self._take_changes()

    def stop(self) -> None:
        """See Executor: the Jobs go on."""
        for reflector in (*self._reflectors, *filter(None, [self._event_reflector])):
            reflector.stop()
        self._followers.stop()
        self._stages.clear()
        self._background.finish(LAST_TASKS_S)

    def _watch(self) -> None:
        self._reflectors = [
            Reflector(self._client, "jobs", self._changes.put, selector=SELECTOR, keep=slim_job).start(),
            Reflector(self._client, "pods", self._changes.put, selector=SELECTOR, keep=slim_pod).start(),
        ]

    def _watch_events(self) -> None:
        """The cluster's events are many, so they are watched only while some stage waits for its first pod."""
        is_wanted = any(stage.wants_reasons for stage in self._stages.values())
        if is_wanted and self._event_reflector is None:
            self._event_reflector = Reflector(self._client, "events", self._changes.put, keep=slim_event).start()
        elif not is_wanted and self._event_reflector is not None:
            self._event_reflector.stop()
            self._event_reflector = None
            self._view.forget_events()

    def _take_changes(self) -> None:
        """Wait for a change, or for the time of the next look, and take in all changes that are there."""
        due_s = min((stage.due_s for stage in self._stages.values()), default=math.inf)
        wait_s = min(due_s - time.monotonic(), PROGRESS_INTERVAL_S if self._told else math.inf)
        timeout_s = None if wait_s == math.inf else max(0.0, wait_s)
        with suppress(queue.Empty):
            self._apply(self._changes.get(timeout=timeout_s))
            while True:
                self._apply(self._changes.get_nowait())

    def _apply(self, change: Change) -> None:
        if change.kind == "BROKEN" and change.resource == "events":
            observe.warn(f"why stages wait cannot be seen: {change.item}")  # and nothing else depends on it
            return
        if change.kind == "BROKEN":
            raise change.item
        self._view.apply(change)
        if change.kind == "LISTED":
            for stage in self._stages.values():
                stage.due_s = 0.0
            return
        for stage in self._stages.values():
            if change.resource == "jobs":
                if change.item["metadata"]["name"] == stage.name:
                    stage.job_changed(change.item, is_gone=change.kind == "DELETED")
            elif is_about(change, stage.name):
                stage.pods_changed()

    def _news_of(self, stage: Tracked) -> list[News]:
        """Let a stage look around if it is time; its new condition, or its outcome."""
        name = stage.spec.stage
        if stage.outcome is None and stage.due_s <= time.monotonic():
            stage.advance()
            self._followers.update(name, stage.pods)
        if stage.outcome is not None:
            self._told.pop(name, None)
            return [(name, self._settle(stage, stage.outcome))]
        condition, (told, told_s) = stage.condition, self._told.get(name, (None, 0.0))
        if condition is None:
            return []
        if condition.phase == "running" and not condition.says:
            condition = replace(condition, says=self._followers.progress(name))
        same_but_words = told is not None and replace(condition, says="") == replace(told, says="")
        is_only_progress = same_but_words and condition.phase == "running"
        if condition == told or (is_only_progress and time.monotonic() - told_s < PROGRESS_INTERVAL_S):
            return []
        self._told[name] = (condition, time.monotonic())
        return [(name, condition)]

    def _settle(self, stage: Tracked, outcome: Outcome) -> Outcome:
        """The stage has ended: keep its log, tell the cluster, and forget it."""
        name, spec, pods = stage.spec.stage, stage.spec, stage.pods
        del self._stages[name]
        log = f"runs/{spec.run}/logs/{name}.jsonl"
        followed = self._followers.take(name)

        def keep() -> bool:
            return keep_log(self._client, self._store, name, pods, followed, log)

        if outcome.state is JobState.FAILED:
            said = str((outcome.error or {}).get("what") or f"exit code {outcome.exit_code}")
            self._background.do(lambda: self._announcer.tell("StageFailed", f"{name}: {said}", is_warning=True))
            return replace(outcome, log=f"{self._store.url.partition('?')[0]}/{log}") if keep() else outcome
        self._background.do(lambda: self._announcer.tell("StageDone", f"{name} is done"))
        if spec.shards == 1:
            self._background.do(keep)
        return outcome


class _Background:
    """One thread for what nothing waits for."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, task: Callable[[], object]) -> None:
        """Do it some time soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="background")
            self._thread.start()
        self._tasks.put(task)

    def finish(self, timeout_s: float) -> None:
        """Wait until all is done, for a while."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except RaditError as error:
                observe.warn(str(error))
