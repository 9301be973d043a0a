"""A Job that stands under the name of one that shall be created: whose it is, and what to say where it does not go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radit_job.errors import ConfigError, RaditError, TryAgainError
from radit_job.executors.kubernetes.diagnose import whose
from radit_job.executors.kubernetes.manifest import COMPONENT_LABEL, DIGEST_ANNOTATION, MANAGED_BY_LABEL, RUN_LABEL
from radit_job.executors.kubernetes.node_group import JOB_NAME_LABEL
from radit_job.executors.kubernetes.obstacles import is_suspended, obstacle_of
from radit_job.executors.kubernetes.view import is_going

Object = dict[str, Any]


def is_ours(job: Object, manifest: Object) -> bool:
    """Whether radit made it, for a stage."""
    return _same(job, manifest, MANAGED_BY_LABEL, COMPONENT_LABEL)


def is_outdated(job: Object, manifest: Object) -> bool:
    """Whether the same run made it from other settings. Another run's may have a controller that waits for it."""
    made_from, wanted = (_annotations(one).get(DIGEST_ANNOTATION) for one in (job, manifest))
    return made_from != wanted and _same(job, manifest, RUN_LABEL)


def has_begun(job: Object, pods: Sequence[Object]) -> bool:
    """Whether there is work to lose: a pod of it runs, or has run. What is suspended has none."""
    if is_suspended(job):
        return False
    status = job.get("status", {})
    is_counted = any(status.get(count) for count in ("ready", "terminating", "succeeded", "failed"))
    return is_counted or any(pod.get("status", {}).get("phase", "Pending") != "Pending" for pod in pods)


def foreign_error(name: str) -> RaditError:
    """The name is taken by a Job that radit did not make."""
    todo = f"Delete it (kubectl delete job {name}), or use another namespace."
    return ConfigError(f"a Job {name} is there that radit did not make", todo=todo)


def in_the_way_error(job: Object, waited_s: float) -> RaditError:
    """A Job that had to end first has not, and nothing of it runs."""
    name, who = job["metadata"]["name"], whose(job)
    if is_going(job):
        what = f"its Job {name} of an earlier run has been deleted, and is not gone after {waited_s:.0f} s"
        todo = (
            "Is the node of its pod lost? Then let go of the pod: kubectl delete pod --force --grace-period=0 "
            f"-l {JOB_NAME_LABEL}={name}; and run again."
        )
        return TryAgainError(what, where=who.stage, todo=todo)
    says = obstacle_of(job, (), (), who).says if is_suspended(job) else "no pod of it runs"
    what = f"the Job {name} of run {who.run} is in the way, and did not go on for {waited_s:.0f} s: {says}"
    todo = f"Let it go on, or delete it (kubectl delete job {name}); and run again."
    return TryAgainError(what, where=who.stage, todo=todo)


def _annotations(job: Object) -> dict[str, str]:
    return job["metadata"].get("annotations") or {}


def _same(job: Object, manifest: Object, *labels: str) -> bool:
    theirs, ours = job["metadata"].get("labels") or {}, manifest["metadata"]["labels"]
    return all(theirs.get(name) == ours[name] for name in labels)
