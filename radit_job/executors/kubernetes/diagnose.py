"""A Job with its pods and events in; how it ended, how it stands, and what to do out. Pure, on plain API objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from radit_job.errors import RaditError, StageFailed, TryAgainError
from radit_job.executors.kubernetes.failures import Whose, error_of_pod, terminated
from radit_job.executors.kubernetes.manifest import PROFILE_ANNOTATION, RUN_LABEL, STAGE_LABEL
from radit_job.executors.kubernetes.node_group import INDEX_LABEL, n_nodes
from radit_job.executors.kubernetes.obstacles import is_suspended, obstacle_of
from radit_job.jobs import Condition, JobState, Outcome

Object = dict[str, Any]

SHOWN_SHARDS = 5  # of the failed ones, by number
TOGETHER = timedelta(minutes=2)  # ends of pods, one of which may be of the other's
EPOCH = "1970-01-01T00:00:00Z"


def outcome_of(job: Object, pods: Sequence[Object]) -> Outcome | None:
    """How a Job ended; None while its pods may still do something.

    FailureTarget and SuccessCriteriaMet come first, when the end is decided; Failed and Complete when all pods ended.
    """
    if condition(job, "Complete"):
        return Outcome(JobState.SUCCEEDED, exit_code=0)
    failed = condition(job, "Failed")
    if failed is None:
        return None
    error, code = _failure(job, pods, failed)
    return Outcome(JobState.FAILED, exit_code=code, error=error.to_json())


def condition_of(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> Condition:
    """How a Job that has not ended stands, in words for the screen."""
    status, n_shards = job.get("status", {}), _n_shards(job)
    counts = {
        "n_shards_done": int(status.get("succeeded") or 0),
        "n_shards": n_shards,
        "n_retries": int(status.get("failed") or 0),
    }
    ending = condition(job, "FailureTarget") or condition(job, "SuccessCriteriaMet")
    if ending:
        says = (
            "failed; its pods are being stopped" if ending["type"] == "FailureTarget" else "done; its pods are ending"
        )
        return Condition("running", says, **counts)
    if n_nodes(job) > 1:
        return _condition_of_group(job, pods, events, counts["n_retries"])
    n_running = sum(is_running(pod) for pod in pods)
    if not n_running and _is_being_counted(job, pods):
        return Condition("running", "its pod has ended", **counts)
    obstacle = ""
    if counts["n_shards_done"] + n_running < n_shards:
        obstacle = obstacle_of(job, pods, events, whose(job)).says
    if not n_running and is_suspended(job):
        return Condition("queued", obstacle, **counts)
    return Condition("running" if n_running else "pending", _progress(counts, n_running, obstacle), **counts)


def _condition_of_group(job: Object, pods: Sequence[Object], events: Sequence[Object], n_retries: int) -> Condition:
    """None gets on before all of them run: as long as one is missing, the stage waits."""
    there = {_shard(pod) for pod in pods if is_running(pod) or pod.get("status", {}).get("phase") == "Succeeded"}
    tries = [_tries(n_retries)] if n_retries else []
    if len(there) == n_nodes(job):
        return Condition("running", "; ".join(tries), n_retries=n_retries)
    obstacle = obstacle_of(job, pods, events, whose(job)).says
    if not there and is_suspended(job):
        return Condition("queued", obstacle, n_retries=n_retries)
    says = [f"{len(there)} of {n_nodes(job)} nodes run", obstacle, *tries]
    return Condition("pending", "; ".join(says), n_retries=n_retries)


def failure_of_pending(job: Object, pods: Sequence[Object], events: Sequence[Object], waited_s: float) -> RaditError:
    """The error of a stage none of whose pods came to run in time: what was in the way, and what to do."""
    obstacle = obstacle_of(job, pods, events, whose(job))
    nodes = n_nodes(job)
    late = "did not start" if nodes == 1 else f"did not have all of its {nodes} nodes"
    what = f"{late} within {waited_s:.0f} s: {obstacle.says}"
    todo = obstacle.todo or "Raise kubernetes.pending_timeout_s, if it only needs longer."
    return obstacle.kind(what, where=whose(job).stage, todo=todo)


def deleted_outcome(stage: str) -> Outcome:
    """The end of a stage whose Job is no longer there, without a result."""
    todo = "Run again: what is committed is kept."
    error = StageFailed("its Job was deleted before it was done", where=stage, todo=todo)
    return Outcome(JobState.FAILED, error=error.to_json())


def whose(job: Object) -> Whose:
    """What the Job's own labels say of it."""
    metadata = job.get("metadata", {})
    labels = metadata.get("labels") or {}
    profile = (metadata.get("annotations") or {}).get(PROFILE_ANNOTATION, "cpu")
    return Whose(labels.get(STAGE_LABEL) or metadata.get("name", ""), labels.get(RUN_LABEL, "RUN"), profile)


def condition(job: Object, kind: str) -> Object | None:
    """A Job's condition of that type, where it is true."""
    found = (one for one in job.get("status", {}).get("conditions") or [] if one.get("type") == kind)
    return next((one for one in found if one.get("status") == "True"), None)


def _failure(job: Object, pods: Sequence[Object], failed: Object) -> tuple[RaditError, int | None]:
    reason, message, who = failed.get("reason"), str(failed.get("message", "")), whose(job)
    if reason == "DeadlineExceeded":
        deadline_s = job.get("spec", {}).get("activeDeadlineSeconds")
        todo = f"Raise kubernetes.stages.{who.stage}.deadline_s, or give it a faster profile. {who.log}"
        return StageFailed(f"was stopped at its deadline of {deadline_s} s", where=who.stage, todo=todo), None
    pod = _telling_pod(job, pods, message)
    if pod is None:  # the Job controller's word is all that is left of it
        code = re.search(r"failed with exit code (\d+)", message)
        error, exit_code = error_of_pod(_gone(int(code[1])) if code else {}, who)
        if not code:
            error = StageFailed(f"failed: {message or reason}; its pods are gone", where=who.stage, todo=who.log)
    else:
        error, exit_code = error_of_pod(pod, who)
    note = _note(job, pod, message)
    return type(error)(f"{error.what}{note}", where=error.where, todo=error.todo), exit_code


def _gone(exit_code: int) -> Object:
    return {"status": {"containerStatuses": [{"state": {"terminated": {"exitCode": exit_code}}}]}}


def _telling_pod(job: Object, pods: Sequence[Object], message: str) -> Object | None:
    """The newest of the pods that the Job failed of: not of those that were stopped because it failed."""
    named = re.search(r"for pod \S+?/(\S+) failed with", message)
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    shards = failed_shards(job)
    first = _first_at_fault(failed) if n_nodes(job) > 1 else None
    ranks = [
        lambda pod: named is not None and pod["metadata"].get("name") == named[1],
        lambda pod: pod is first,
        lambda pod: bool(shards) and _shard(pod) == shards[0],
        lambda pod: not pod["metadata"].get("deletionTimestamp") and not _was_disrupted(pod),
        lambda pod: True,
    ]
    for rank in ranks:
        found = [pod for pod in failed if rank(pod)]
        if found:
            return max(found, key=_ended_at)
    return None


def _first_at_fault(failed: Sequence[Object]) -> Object | None:
    """Of pods that work together, of those that failed last: the others may have failed of its end."""
    at_fault = sorted(filter(_is_at_fault, failed), key=_ended_at)
    if not at_fault:
        return None
    last = datetime.fromisoformat(_ended_at(at_fault[-1]))
    return next(pod for pod in at_fault if last - datetime.fromisoformat(_ended_at(pod)) <= TOGETHER)


def _is_at_fault(pod: Object) -> bool:
    """Of pods that work together: not one that only lost another, or was taken away."""
    lost_another = terminated(pod).get("exitCode") == TryAgainError.exit_code
    return not lost_another and not pod["metadata"].get("deletionTimestamp") and not _was_disrupted(pod)


def failed_shards(job: Object) -> list[int]:
    """The numbers of the shards that have no try left, from "1,3-5"."""
    shards: list[int] = []
    for part in filter(None, str(job.get("status", {}).get("failedIndexes") or "").split(",")):
        first, _, last = part.partition("-")
        shards += range(int(first), int(last or first) + 1)
    return shards


def _note(job: Object, pod: Object | None, message: str) -> str:
    """Which shard it was, how many more there are, and how often it was tried."""
    n_shards, status = _n_shards(job), job.get("status", {})
    notes = []
    if n_nodes(job) > 1:
        notes += [f"node {_shard(pod)}"] if pod else []
        notes += [f"{status['failed']} pods failed"] if int(status.get("failed") or 0) > 1 else []
    elif n_shards > 1:
        shard = _shard(pod) if pod else None
        notes += [f"shard {shard}"] if shard is not None else []
        shards = failed_shards(job)
        if len(shards) > 1:
            more = ", ..." if len(shards) > SHOWN_SHARDS else ""
            numbers = ", ".join(map(str, shards[:SHOWN_SHARDS]))
            notes.append(f"{len(shards)} of {n_shards} shards failed: {numbers}{more}")
        if (condition(job, "Failed") or {}).get("reason") == "MaxFailedIndexesExceeded":
            notes.append("the others were stopped")
        if status.get("succeeded"):
            notes.append(f"{status['succeeded']} done")
    elif int(status.get("failed") or 0) > 1:
        notes.append(f"tried {status['failed']} times")
    return f" ({'; '.join(notes)})" if notes else ""


def _progress(counts: dict[str, int], n_running: int, obstacle: str) -> str:
    if counts["n_shards"] == 1:
        parts = [obstacle] if obstacle else []
    else:
        parts = [f"{counts['n_shards_done']} of {counts['n_shards']} shards done"]
        parts += [f"{n_running} running"] if n_running else []
        left = counts["n_shards"] - counts["n_shards_done"] - n_running
        parts += [f"{left} waiting: {obstacle}"] if obstacle and left > 0 else []
    if counts["n_retries"]:
        parts.append(_tries(counts["n_retries"]))
    return "; ".join(parts)


def _tries(n_failed: int) -> str:
    return f"{n_failed} {'try' if n_failed == 1 else 'tries'} failed"


def _n_shards(job: Object) -> int:
    return int(job.get("spec", {}).get("completions") or 1)


def _shard(pod: Object) -> int | None:
    index = (pod.get("metadata", {}).get("labels") or {}).get(INDEX_LABEL)
    return int(index) if index is not None else None


def is_running(pod: Object) -> bool:
    """Whether a pod is at work, and not being stopped."""
    return pod.get("status", {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def _is_being_counted(job: Object, pods: Sequence[Object]) -> bool:
    """A pod has ended and the Job's status, some seconds behind, does not hold it yet: nothing waits for anything."""
    status = job.get("status", {})
    n_counted = int(status.get("succeeded") or 0) + int(status.get("failed") or 0)
    n_ended = sum(pod.get("status", {}).get("phase") in ("Succeeded", "Failed") for pod in pods)
    return n_ended == len(pods) and n_ended > n_counted


def _was_disrupted(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one.get("type") == "DisruptionTarget" and one.get("status") == "True" for one in conditions)


def _ended_at(pod: Object) -> str:
    return str(terminated(pod).get("finishedAt") or pod["metadata"].get("creationTimestamp") or EPOCH)
