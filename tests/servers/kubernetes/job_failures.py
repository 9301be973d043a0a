"""Which failures of pods count, and for which index: a Job's podFailurePolicy and its indexes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
TRACKED = "batch.kubernetes.io/job-tracking"


def format_indexes(indexes: Iterable[int]) -> str:
    """Compressed as in status.completedIndexes: 0,2-5 (two neighbours are not a range)."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}{',' if len(run) == 2 else '-'}{run[-1]}" for run in runs
    )


def parse_indexes(text: str | None) -> set[int]:
    """The inverse of `format_indexes`."""
    found: set[int] = set()
    for run in (text or "").split(","):
        if run:
            first, _, last = run.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


def index_of(pod: Json) -> int | None:
    """A pod's completion index."""
    value = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return None if value is None else int(value)


def is_tracked(pod: Json) -> bool:
    """Whether the Job controller has not counted the pod yet."""
    return TRACKED in (pod["metadata"].get("finalizers") or ())


def is_final(pod: Json) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_terminating(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp")) and not is_final(pod)


def is_failed(pod: Json, job: Json) -> bool:
    """With podReplacementPolicy Failed only a pod that has ended; otherwise also one that is being deleted."""
    if pod["status"].get("phase") == "Failed":
        return True
    return job["spec"]["podReplacementPolicy"] != "Failed" and is_terminating(pod)


def judge(job: Json, pod: Json) -> tuple[str | None, bool, str | None]:
    """What the policy makes of a failed pod: (why the Job fails, whether it counts, the action)."""
    for at, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or ()):
        why = _matches(rule, pod)
        if why is not None:
            action = rule["action"]
            said = f"{why} matching {action} rule at index {at}" if action == "FailJob" else None
            return said, action != "Ignore", action
    return None, True, None


def why_job_fails(job: Json, pods: list[Json]) -> str | None:
    """The message of the first FailJob rule that a failed pod matches."""
    if not job["spec"].get("podFailurePolicy"):
        return None
    return next((why for pod in pods if is_failed(pod, job) and (why := judge(job, pod)[0])), None)


def fails_index(job: Json, pod: Json) -> bool:
    """Whether this failed pod was its index's last."""
    if not is_failed(pod, job):
        return False
    _, counts, action = judge(job, pod)
    return action == "FailIndex" or (counts and failures_of(pod)[0] >= job["spec"]["backoffLimitPerIndex"])


def failures_of(pod: Json) -> tuple[int, int]:
    """How often the pod's index had failed before it: (counted, ignored)."""
    annotations = pod["metadata"].get("annotations") or {}
    return int(annotations.get(FAILURES, 0)), int(annotations.get(IGNORED_FAILURES, 0))


def failures_after(job: Json, pod: Json | None) -> tuple[int, int]:
    """How often an index has failed with this pod."""
    if pod is None:
        return 0, 0
    counted, ignored = failures_of(pod)
    return (counted + 1, ignored) if judge(job, pod)[1] else (counted, ignored + 1)


def waiting_for_replacement(job: Json, pods: list[Json], settled: set[int]) -> dict[int, Json]:
    """The last failed pod of each index that has no pod: it stays until the next one has taken over its count."""
    last: dict[int, Json] = {}
    for pod in pods:
        index = index_of(pod)
        if index is None or index in settled or not is_tracked(pod) or not is_failed(pod, job):
            continue
        if index not in last or sum(failures_of(pod)) >= sum(failures_of(last[index])):
            last[index] = pod
    return last


def _matches(rule: Json, pod: Json) -> str | None:
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if codes := rule.get("onExitCodes"):
        status = pod["status"]
        for container in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
            code = ((container.get("state") or {}).get("terminated") or {}).get("exitCode", 0)
            named = codes.get("containerName") in (None, container["name"])
            if named and code != 0 and (code in codes["values"]) == (codes["operator"] == "In"):
                return f"Container {container['name']} for pod {where} failed with exit code {code}"
        return None
    for condition in pod["status"].get("conditions") or ():
        for pattern in rule.get("onPodConditions") or ():
            if (condition["type"], condition["status"]) == (pattern["type"], pattern["status"]):
                return f"Pod {where} has condition {condition['type']}"
    return None
