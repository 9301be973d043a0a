"""The Job controller: creates pods, counts them, and says when a Job is complete or failed.

It follows the order of the real one's syncJob (kubernetes/pkg/controller/job), including what a client sees between
two steps: uids in uncountedTerminatedPods before they are counted, SuccessCriteriaMet before Complete, FailureTarget
before Failed, and neither of the last ones before every pod has ended. The back-off between retries is
`retry_backoff_s` instead of 10 s, so that tests are quick.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.servers.kubernetes import job_failures as rules
from tests.servers.kubernetes.events import Recorder
from tests.servers.kubernetes.job_pods import JobPods
from tests.servers.kubernetes.resources import JOBS, PODS
from tests.servers.kubernetes.storage import Change, Storage, now, seconds
from tests.servers.kubernetes.work_queue import WorkQueue

Json = dict[str, Any]
_LEFT_OUT_WHEN_EMPTY = ("active", "succeeded", "failed", "completedIndexes")
BUSY_SHARE = 0.2  # of the time at most goes into one Job's syncs: the real controller batches a second's changes


@dataclass
class View:
    """A Job and its pods, during one sync."""

    job: Json
    pods: list[Json]
    active: list[Json]
    terminating: int
    status: Json
    succeeded: int = 0
    failed: int = 0
    finished: Json | None = None  # the condition with which the Job is to end
    succeeded_indexes: set[int] = field(default_factory=set)
    failed_indexes: set[int] | None = None
    to_replace: dict[int, Json] = field(default_factory=dict)

    @property
    def spec(self) -> Json:
        spec: Json = self.job["spec"]
        return spec

    @property
    def is_indexed(self) -> bool:
        return bool(self.spec["completionMode"] == "Indexed")

    def add_condition(self, condition: Json) -> None:
        kept = [one for one in self.status.get("conditions") or () if one["type"] != condition["type"]]
        self.status["conditions"] = [*kept, condition]


class JobController:
    """Looks at every Job that changed or whose pods did."""

    def __init__(self, storage: Storage, pods: JobPods, recorder: Recorder) -> None:
        self.queue = WorkQueue()
        self.time_scale = 1.0  # how long a second of activeDeadlineSeconds takes
        self._storage, self._pods, self._recorder = storage, pods, recorder
        self._quiet_until: dict[tuple[str, str], float] = {}  # monotonic time
        storage.listeners.append(self._notice)

    def step(self) -> bool:
        """Look at what is due; whether there was anything."""
        due = self.queue.pop_due()
        for namespace, name in due:
            job = self._storage.find(JOBS, namespace, name)
            if job is not None and not finished_condition(job):
                started = time.monotonic()
                self._sync(job)
                took_s = time.monotonic() - started
                if took_s > 0.002:
                    self._quiet_until[namespace, name] = time.monotonic() + took_s / BUSY_SHARE
        return bool(due)

    def _notice(self, change: Change) -> None:
        meta = change.object["metadata"]
        if change.resource == JOBS.key:
            self._enqueue((change.namespace, meta["name"]))
        elif change.resource == PODS.key:
            for owner in meta.get("ownerReferences") or ():
                if owner["kind"] == "Job":
                    self._enqueue((change.namespace, owner["name"]))

    def _enqueue(self, key: tuple[str, str]) -> None:
        self.queue.add(key, max(0.0, self._quiet_until.get(key, 0.0) - time.monotonic()))

    def _sync(self, job: Json) -> None:
        view = self._look(job)
        started = view.status.get("startTime")
        if started is None and not view.spec["suspend"]:
            view.status["startTime"] = now()
        self._find_end(view)
        if view.is_indexed:
            self._look_at_indexes(view)
        if view.finished is not None:
            deleted = self._pods.delete(view.job, view.active)
            view.terminating += deleted
            view.active = []
        else:
            self._manage(view)
        ready = sum(_is_ready(pod) for pod in view.active)
        view.status.update(active=len(view.active), ready=ready, terminating=view.terminating)
        self._track(view)

    def _look(self, job: Json) -> View:
        owned = self._storage.owned_by(job["metadata"]["uid"], PODS)
        pods = [pod for pod in owned if rules.is_tracked(pod) or not rules.is_final(pod)]
        active = [pod for pod in pods if not rules.is_final(pod) and not pod["metadata"].get("deletionTimestamp")]
        status = {"uncountedTerminatedPods": {}, **(job.get("status") or {})}
        view = View(job, pods, active, sum(map(rules.is_terminating, pods)), status)
        uncounted = status["uncountedTerminatedPods"]
        known = {*uncounted.get("succeeded", ()), *uncounted.get("failed", ())}
        new = [pod for pod in pods if rules.is_tracked(pod) and pod["metadata"]["uid"] not in known]
        new_failed = [pod for pod in new if rules.is_failed(pod, job)]
        view.succeeded = status.get("succeeded", 0) + len(uncounted.get("succeeded", ()))
        view.succeeded += sum(pod["status"].get("phase") == "Succeeded" for pod in new)
        view.failed = status.get("failed", 0) + len(uncounted.get("failed", ()))
        view.failed += sum(rules.judge(job, pod)[1] for pod in new_failed)
        return view

    def _find_end(self, view: View) -> None:
        """Whether the Job is over, by what an earlier sync decided, its failure policy, retries or deadline."""
        said = {one["type"]: one for one in view.status.get("conditions") or () if one["status"] == "True"}
        deadline_s = view.spec.get("activeDeadlineSeconds")
        if "SuccessCriteriaMet" in said or "FailureTarget" in said:
            view.finished = said.get("SuccessCriteriaMet") or said["FailureTarget"]
        elif why := rules.why_job_fails(view.job, view.pods):
            view.finished = _condition("FailureTarget", "PodFailurePolicy", why)
        elif view.failed > view.spec["backoffLimit"]:
            why = "Job has reached the specified backoff limit"
            view.finished = _condition("FailureTarget", "BackoffLimitExceeded", why)
        elif deadline_s is not None and not view.spec["suspend"]:
            left_s = seconds(view.status["startTime"]) + deadline_s * self.time_scale - time.time()
            if left_s <= 0:
                why = "Job was active longer than specified deadline"
                view.finished = _condition("FailureTarget", "DeadlineExceeded", why)
            else:
                self.queue.add(_key(view.job), left_s)

    def _look_at_indexes(self, view: View) -> None:
        n_indexes = view.spec["completions"]
        tracked = [pod for pod in view.pods if rules.is_tracked(pod) and (rules.index_of(pod) or 0) < n_indexes]
        new = {rules.index_of(pod) for pod in tracked if pod["status"].get("phase") == "Succeeded"}
        view.succeeded_indexes = rules.parse_indexes(view.status.get("completedIndexes")) | (new - {None})
        view.succeeded = len(view.succeeded_indexes)
        if view.spec.get("backoffLimitPerIndex") is None:
            return
        new = {rules.index_of(pod) for pod in tracked if rules.fails_index(view.job, pod)}
        view.failed_indexes = rules.parse_indexes(view.status.get("failedIndexes")) | (new - {None})
        most = view.spec.get("maxFailedIndexes")
        if view.finished is None and most is not None and len(view.failed_indexes) > most:
            why = "Job has exceeded the specified maximal number of failed indexes"
            view.finished = _condition("FailureTarget", "MaxFailedIndexesExceeded", why)
        elif view.finished is None and view.failed_indexes and len(view.failed_indexes) + view.succeeded >= n_indexes:
            view.finished = _condition("FailureTarget", "FailedIndexes", "Job has failed indexes")
        settled = view.succeeded_indexes | view.failed_indexes | {rules.index_of(pod) or 0 for pod in view.active}
        view.to_replace = rules.waiting_for_replacement(view.job, view.pods, settled)

    def _manage(self, view: View) -> None:
        """Bring the number of pods to what it should be; the Job may turn out to be complete or suspended."""
        deleting = bool(view.job["metadata"].get("deletionTimestamp"))
        if not deleting:
            wait_s = self._pods.manage(view)
            if wait_s is not None:
                self.queue.add(_key(view.job), wait_s)
        completions = view.spec.get("completions")
        enough = view.succeeded > 0 if completions is None else view.succeeded >= completions
        if enough and not view.active:
            why = "Reached expected number of succeeded pods"
            view.finished = _condition("SuccessCriteriaMet", "CompletionsReached", why)
        elif not deleting:
            self._say_suspended(view)

    def _say_suspended(self, view: View) -> None:
        before = next((one for one in view.status.get("conditions") or () if one["type"] == "Suspended"), None)
        if view.spec["suspend"] and (before is None or before["status"] != "True"):
            view.add_condition(_condition("Suspended", "JobSuspended", "Job suspended"))
            view.status.pop("startTime", None)
            self._recorder.say(view.job, "Normal", "Suspended", "Job suspended", "job-controller")
        elif not view.spec["suspend"] and before is not None and before["status"] == "True":
            view.add_condition({**_condition("Suspended", "JobResumed", "Job resumed"), "status": "False"})
            view.status["startTime"] = now()
            self._recorder.say(view.job, "Normal", "Resumed", "Job resumed", "job-controller")

    def _track(self, view: View) -> None:
        """Count the pods that ended, let them go, and end the Job when the last one has."""
        uncounted = {key: list(uids) for key, uids in view.status["uncountedTerminatedPods"].items()}
        counted = [pod for pod in view.pods if rules.is_tracked(pod) and self._may_count(view, pod)]
        for pod in counted:
            result = self._count(view, pod)
            if result and pod["metadata"]["uid"] not in uncounted.setdefault(result, []):
                uncounted[result].append(pod["metadata"]["uid"])
        view.status["uncountedTerminatedPods"] = {key: uids for key, uids in uncounted.items() if uids}
        if view.is_indexed:
            view.status.update(
                succeeded=len(view.succeeded_indexes), completedIndexes=rules.format_indexes(view.succeeded_indexes)
            )
            if view.failed_indexes is not None:
                view.status["failedIndexes"] = rules.format_indexes(view.failed_indexes)
        if view.finished is not None:
            view.add_condition(view.finished)
        self._store(view)
        for pod in counted:
            self._pods.let_go(pod)
        for result, uids in view.status["uncountedTerminatedPods"].items():
            view.status[result] = view.status.get(result, 0) + len(uids)
        view.status["uncountedTerminatedPods"] = {}
        ended = view.finished is not None and view.terminating == 0
        if ended:
            self._end(view)
        if self._store(view) and ended:
            self._announce(view)

    def _may_count(self, view: View, pod: Json) -> bool:
        if view.job["metadata"].get("deletionTimestamp") or view.finished or pod["status"].get("phase") == "Succeeded":
            return True
        if not rules.is_failed(pod, view.job):
            return False
        held = view.to_replace.get(rules.index_of(pod) or 0) if view.failed_indexes is not None else None
        return held is None or held["metadata"]["uid"] != pod["metadata"]["uid"]

    def _count(self, view: View, pod: Json) -> str | None:
        if pod["status"].get("phase") == "Succeeded":
            return None if view.is_indexed else "succeeded"
        failing = view.finished is not None and view.finished["type"] == "FailureTarget"
        if rules.is_failed(pod, view.job) or failing:
            return "failed" if rules.judge(view.job, pod)[1] else None
        return None

    def _end(self, view: View) -> None:
        assert view.finished is not None
        kind = "Failed" if view.finished["type"] == "FailureTarget" else "Complete"
        view.add_condition(_condition(kind, view.finished["reason"], view.finished["message"]))
        if kind == "Complete":
            view.status["completionTime"] = now()

    def _announce(self, view: View) -> None:
        assert view.finished is not None
        if view.finished["type"] == "FailureTarget":
            said = ("Warning", view.finished["reason"], view.finished["message"])
        else:
            said = ("Normal", "Completed", "Job completed")
        self._recorder.say(view.job, *said, "job-controller")

    def _store(self, view: View) -> bool:
        """Write the status; whether the Job is still there."""
        job = self._storage.find(JOBS, *_key(view.job))
        if job is None or job["metadata"]["uid"] != view.job["metadata"]["uid"]:
            return False
        status = {key: value for key, value in view.status.items() if value or key not in _LEFT_OUT_WHEN_EMPTY}
        view.job = self._storage.update(JOBS, {**job, "status": status})
        return True


def finished_condition(job: Json) -> Json | None:
    """The condition Complete or Failed."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] in ("Complete", "Failed") and one["status"] == "True"), None)


def _condition(kind: str, reason: str, message: str) -> Json:
    moment = now()
    return {"type": kind, "status": "True", "lastProbeTime": moment, "lastTransitionTime": moment,
            "reason": reason, "message": message}  # fmt: skip


def _is_ready(pod: Json) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or ())


def _key(job: Json) -> tuple[str, str]:
    return job["metadata"]["namespace"], job["metadata"]["name"]
