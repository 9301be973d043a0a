"""One stage's Job: made, adopted, or made anew in the place of one that is over.

A small state machine without threads and without waiting: `advance` looks at what the watches have told, does what
can be done now, and says when it wants to look again. Two controllers that do the same converge on one Job: the name
is the content's, and what is deleted is named by its uid.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass

from radit_job.config.cluster import Kubernetes
from radit_job.errors import ConfigError, CorruptArtifact, RaditError, StageFailed
from radit_job.executors.kubernetes.answers import AlreadyExists, ApiError, Conflict, QuotaFull
from radit_job.executors.kubernetes.client import KubernetesClient, Object
from radit_job.executors.kubernetes.diagnose import (
    condition_of,
    deleted_outcome,
    failure_of_pending,
    is_running,
    outcome_of,
)
from radit_job.executors.kubernetes.group_service import GroupService
from radit_job.executors.kubernetes.manifest import REPLACE_ANNOTATION
from radit_job.executors.kubernetes.node_group import JOB_NAME_LABEL
from radit_job.executors.kubernetes.standing import foreign_error, has_begun, in_the_way_error, is_ours, is_outdated
from radit_job.executors.kubernetes.view import View, is_going, is_over
from radit_job.jobs import Condition, JobSpec, JobState, Outcome
from radit_job.store import ObjectStore
from radit_job.store.artifacts import find

AGAIN_S = 0.1  # after another controller, or the Job controller, was faster
LOOK_S = 2.0  # between looks at something that a watch should have told
QUOTA_S = 5.0  # between tries to create a Job for which the quota has no room
REASON_S = 1.0  # after which it is asked why a stage still waits
PODS_LAG_S = 1.0  # how long the end of a pod may be told after the end of its Job
REVIEW_S = 0.2  # a thousand pods change often: no need to look at them at each change


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every stage's Job has to do with."""

    client: KubernetesClient
    settings: Kubernetes
    store: ObjectStore
    view: View


class Tracked:
    """A stage that was started and has not ended."""

    def __init__(self, spec: JobSpec, manifest: Object, around: Surroundings) -> None:
        self.spec = spec
        self.name: str = manifest["metadata"]["name"]
        self.due_s = 0.0  # monotonic time of the next look, unless something changes before
        self.waiting_since_s: float | None = None  # for a pod to run; not in a queue
        self.condition: Condition | None = None
        self.told: Condition | None = None  # the condition that was reported last
        self.outcome: Outcome | None = None
        self._manifest = manifest
        self._client, self._settings = around.client, around.settings
        self._store, self._view = around.store, around.view
        self._job: Object | None = None  # the Job that is watched, as last seen; None: there is none yet
        self._service: GroupService | None = None  # its pods find each other by it, if they have to
        self._is_seen = False  # by the watch
        self._n_looks = 0  # at a Job that had the name already
        self._ask_at_s = 0.0  # when the watch should have told of the Job
        self._leaving_uid: str | None = None  # another Job of this name that must go first
        self._stuck_since_s: float | None = None  # it is to go, and nothing of it runs
        self._replaced = self._attempt() if spec.replace else None  # what is committed, and counts for nothing
        self._reviewed_s = -math.inf
        self._ended_s: float | None = None  # the Job failed, but how its pods ended is not told yet

    @property
    def pods(self) -> list[Object]:
        """The Job's pods."""
        return self._view.pods_of(self._job) if self._job else []

    @property
    def wants_reasons(self) -> bool:
        """Whether the cluster's events shall be watched: it waits, and the Job and its pods may not say why."""
        since_s = self.waiting_since_s
        return since_s is not None and time.monotonic() - since_s >= REASON_S

    def job_changed(self, job: Object, *, is_gone: bool) -> None:
        """A watch told of a Job of this name."""
        self.due_s = 0.0
        if is_gone and self._job and job["metadata"]["uid"] == self._job["metadata"]["uid"]:
            self._job, self._is_seen = job, True

    def pods_changed(self) -> None:
        """A watch told of a pod, or of an event."""
        self.due_s = min(self.due_s, self._reviewed_s + REVIEW_S)

    def advance(self) -> None:
        """Do what can be done now; sets outcome, condition and due_s."""
        self.due_s = math.inf
        if self._job is None:
            self._create()
        if self._job is not None and self.outcome is None:
            self._introduce(self._job)
        if self._job is not None and self.outcome is None:
            self._review(self._job)

    # ---- until there is a Job

    def _create(self) -> None:
        there = self._view.jobs.get(self.name)
        if there is not None and self._must_go(there):
            self._limit_wait(there)  # the watch will tell of its end
            return
        try:
            self._adopt(self._client.create("jobs", self._manifest))
        except AlreadyExists:
            self._look()
        except QuotaFull as error:
            self._wait_for_quota(error)
        except (ApiError, ConfigError) as error:
            self._fail(error)

    def _look(self) -> None:
        """A Job has the name already."""
        self._n_looks += 1
        job = self._client.get("jobs", self.name)
        if job is None:
            self._look_again(AGAIN_S * self._n_looks)
        elif not is_ours(job, self._manifest):
            self._fail(foreign_error(self.name))
        elif is_going(job):
            self._wait_for_end(job, "its Job of an earlier run is being deleted")
        elif not is_over(job):
            if is_outdated(job, self._manifest) and not has_begun(job, self._pods_now()):
                self._delete(job)
                self._wait_for_end(job, "its Job of other settings, which has not begun, is being deleted")
            elif self.spec.replace and REPLACE_ANNOTATION not in job["metadata"].get("annotations", {}):
                self._wait_for_end(job, "it is computed by another run, whose Job must end first")
            else:
                self._adopt(job)
        elif self._is_committed():
            self._job, self.outcome = job, Outcome(JobState.SUCCEEDED, 0)
        else:
            self._delete(job)
            self._wait_for_end(job, "its Job of an earlier run is being deleted")

    def _wait_for_end(self, job: Object, why: str) -> None:
        if job["metadata"]["uid"] != self._leaving_uid:
            self._leaving_uid, self._stuck_since_s = job["metadata"]["uid"], None
        self.condition = Condition("pending", why, 0, self.spec.shards)
        # Only if the watch has not told of it by then: see _create.
        self._look_again(min(LOOK_S, AGAIN_S * self._n_looks))

    def _must_go(self, job: Object) -> bool:
        """Whether it is the Job that is waited for, and there is something to wait for."""
        return job["metadata"]["uid"] == self._leaving_uid and (is_going(job) or not is_over(job))

    def _limit_wait(self, job: Object) -> None:
        """A Job that works may take its time; one that is stuck has as long as one that does not start."""
        now_s, timeout_s = time.monotonic(), self._settings.pending_timeout_s
        if not is_going(job) and any(is_running(pod) for pod in self._view.pods_of(job)):
            self._stuck_since_s = None
            return
        self._stuck_since_s = self._stuck_since_s or now_s
        waited_s = now_s - self._stuck_since_s
        if timeout_s is None:
            return
        if waited_s < timeout_s:
            self._look_again(timeout_s - waited_s + 0.01)
            return
        fresh = self._client.get("jobs", self.name)  # the news may be late
        if fresh is not None and self._must_go(fresh):
            self._fail(in_the_way_error(fresh, waited_s))
        else:
            self._look_again(LOOK_S)

    def _adopt(self, job: Object) -> None:
        self._job, self._is_seen, self._ask_at_s = job, False, time.monotonic() + LOOK_S
        self._leaving_uid, self._stuck_since_s, self.waiting_since_s = None, None, None
        self._service = GroupService(self._client, job)

    def _introduce(self, job: Object) -> None:
        """The pods find each other: by a Service, which the Job's maker may not have lived to make."""
        if self._service is None:
            return
        try:
            self._service.advance()
        except (ApiError, ConfigError) as error:
            if not has_begun(job, self._pods_now()):
                self._delete(job)
            self._fail(error)
        else:
            self.due_s = min(self.due_s, self._service.due_s)

    def _delete(self, job: Object) -> None:
        with suppress(Conflict):  # somebody else has deleted it, and there is a new one
            self._client.delete("jobs", self.name, uid=job["metadata"]["uid"])

    def _wait_for_quota(self, error: QuotaFull) -> None:
        now_s = time.monotonic()
        self.waiting_since_s = self.waiting_since_s or now_s
        timeout_s = self._settings.pending_timeout_s
        if timeout_s is not None and now_s - self.waiting_since_s > timeout_s:
            self._fail(StageFailed(f"no room for {timeout_s} s: {error.what}", where=self.name, todo=error.todo))
            return
        self.condition = Condition("pending", error.what, 0, self.spec.shards)
        self._look_again(QUOTA_S)

    # ---- once there is one

    def _review(self, job: Object) -> None:
        now_s = self._reviewed_s = time.monotonic()
        there = self._view.jobs.get(self.name)
        if there is None or there["metadata"]["uid"] != job["metadata"]["uid"]:
            self._miss(job, there)
            return
        self._job, self._is_seen = there, True
        if "pods" not in self._view.listed:
            return  # an adopted Job's pods are not known yet
        pods = self._view.pods_of(there)
        outcome = outcome_of(there, pods)
        if outcome is not None:
            self._end(outcome, pods, now_s)
            return
        condition = condition_of(there, pods, self._view.events_of(there))
        self.condition = condition
        if condition.phase != "pending":
            self.waiting_since_s = None
            return
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s
        waited_s, timeout_s = now_s - self.waiting_since_s, self._settings.pending_timeout_s
        if waited_s < REASON_S:
            self._look_again(REASON_S - waited_s + 0.01)
        elif timeout_s is not None and waited_s >= timeout_s:
            self._give_up(there, waited_s)
        elif timeout_s is not None:
            self._look_again(timeout_s - waited_s + 0.01)

    def _end(self, outcome: Outcome, pods: list[Object], now_s: float) -> None:
        """Take the outcome, or wait a moment for what the pods will say about a failure."""
        self._ended_s = self._ended_s or now_s
        is_told = outcome.state is JobState.SUCCEEDED or any(
            pod.get("status", {}).get("phase") == "Failed" for pod in pods
        )
        if is_told or now_s - self._ended_s >= PODS_LAG_S:
            self.outcome = outcome
        else:
            self._look_again(PODS_LAG_S - (now_s - self._ended_s) + 0.01)

    def _miss(self, job: Object, there: Object | None) -> None:
        """The watch knows no such Job: it may not be so far, or the Job is gone."""
        if not self._is_seen:
            if time.monotonic() < self._ask_at_s:
                self.due_s = self._ask_at_s
                return
            now = self._client.get("jobs", self.name)
            if now is not None and now["metadata"]["uid"] == job["metadata"]["uid"]:
                self._ask_at_s = self.due_s = time.monotonic() + LOOK_S
                return
        outcome = outcome_of(job, self._view.pods_of(job))
        if outcome is not None:
            self.outcome = outcome
        elif self._is_committed():
            self.outcome = Outcome(JobState.SUCCEEDED, 0)
        elif there is not None and not is_going(there) and not is_over(there):
            self._adopt(there)  # another controller has made it anew
            self.due_s = 0.0
        else:
            self.outcome = deleted_outcome(self.spec.stage)

    def _give_up(self, job: Object, waited_s: float) -> None:
        """No pod ran for too long; whether that is still so is asked, for the news may be late."""
        fresh = self._client.get("jobs", self.name)
        if fresh is None or fresh["metadata"]["uid"] != job["metadata"]["uid"] or is_over(fresh):
            self._look_again(LOOK_S)
            return
        pods = self._pods_now()
        events = self._view.events_of(job)
        if condition_of(fresh, pods, events).phase != "pending":
            self.waiting_since_s = None
            self._look_again(LOOK_S)
            return
        self._delete(job)
        self._fail(failure_of_pending(fresh, pods, events, waited_s))

    def _pods_now(self) -> list[Object]:
        return self._client.list("pods", f"{JOB_NAME_LABEL}={self.name}")[0]

    def _is_committed(self) -> bool:
        return self._attempt() not in (None, self._replaced)

    def _attempt(self) -> str | None:
        """Which attempt is committed; a manifest that cannot be read commits nothing."""
        try:
            manifest = find(self._store, self.spec.stage, self.spec.key)
        except CorruptArtifact:
            return None
        return manifest.attempt if manifest else None

    def _fail(self, error: RaditError) -> None:
        self.outcome = Outcome(JobState.FAILED, error.exit_code, error.to_json())

    def _look_again(self, seconds: float) -> None:
        self.due_s = min(self.due_s, time.monotonic() + seconds)
