"""Why a pod failed, and what to do: pure, from the pod as the API shows it.

The shapes were recorded from Kubernetes 1.35; the reasons are those of the kubelet and of the Job controller:
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-states
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from radit_job.errors import (
    ConfigError,
    InputError,
    RaditError,
    ServiceError,
    StageFailed,
    TryAgainError,
    error_from_json,
)
from radit_job.executors.kubernetes.pods import CONTAINER

Object = dict[str, Any]

MAX_WORDS = 300  # characters of another program's message
BY_EXIT_CODE: dict[int, tuple[type[RaditError], str]] = {
    64: (ConfigError, "ended with exit code 64: its configuration is wrong"),
    65: (InputError, "ended with exit code 65: its input cannot be used"),
    69: (ServiceError, "ended with exit code 69: a service did not answer"),
    75: (TryAgainError, "ended with exit code 75: it could not be done at the time"),
    134: (StageFailed, "was aborted (signal 6)"),
    137: (StageFailed, "was killed (signal 9), and the cluster does not say why"),
    139: (StageFailed, "crashed: a segmentation fault (signal 11)"),
    143: (StageFailed, "was told to stop (SIGTERM): its pod was deleted, or its node drained"),
}


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose pods they are, for the advice."""

    stage: str
    run: str
    profile: str

    def field(self, name: str) -> str:
        """A setting of the stage's profile."""
        return f"kubernetes.profiles.{self.profile}.{name}"

    @property
    def log(self) -> str:
        """How to read what the stage printed."""
        return f"Its log: radit logs {self.run} {self.stage}"


def error_of_pod(pod: Object, whose: Whose) -> tuple[RaditError, int | None]:
    """What a failed pod failed of, with its exit code where its container had one."""
    ended = terminated(pod)
    code = ended.get("exitCode")
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        return _evicted(str(status.get("message", "")), whose), code
    if ended.get("reason") == "OOMKilled":
        return _out_of_memory(pod, whose), code
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        said = shortened(str(ended.get("message", "")))
        todo = f"The image must hold the program `radit`: see kubernetes.image and {whose.field('image')}."
        return ConfigError(f"its container could not start: {said}", where=whose.stage, todo=todo), code
    told = _told(str(ended.get("message", "")))
    if isinstance(told, dict):
        return _in_the_pod(error_from_json(told), whose), code
    disruption = _condition(pod, "DisruptionTarget")
    if disruption is not None:
        return _disrupted(disruption, whose), code
    if ended.get("reason") == "ContainerStatusUnknown" or status.get("reason") in ("NodeLost", "NodeShutdown"):
        return StageFailed("its node was lost", where=whose.stage, todo="Run again."), code
    if not ended and status.get("reason"):  # UnexpectedAdmissionError, OutOfcpu, NodeAffinity: it never began
        said = shortened(f"{status['reason']}: {status.get('message', '')}")
        return StageFailed(f"its node refused the pod: {said}", where=whose.stage, todo="Run again."), code
    return _by_code(code, told, whose), code


def _in_the_pod(error: RaditError, whose: Whose) -> RaditError:
    """The stage's own word; where a service refused it, say whose environment that was: not the reader's."""
    if not isinstance(error, ServiceError):
        return type(error)(error.what, where=error.where or whose.stage, todo=error.todo)
    where = f"in the pod of {whose.stage}" + (f", {error.where}" if error.where else "")
    hint = "Pods take their environment from kubernetes.env_from: by default the Secret radit-s3 and the ConfigMap "
    hint += "radit-settings."
    return type(error)(error.what, where=where, todo=f"{error.todo} {hint}" if error.todo else hint)


def terminated(pod: Object) -> Object:
    """The end of the stage's container, or of the first init container that failed; `{}` where none is told."""
    status = pod.get("status", {})
    own = [one for one in status.get("containerStatuses") or [] if one.get("name") == CONTAINER]
    for one in [*own, *(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        ended = (one.get("state") or {}).get("terminated") or (one.get("lastState") or {}).get("terminated")
        if ended and ended.get("exitCode") != 0:
            return dict(ended)
    return {}


def container_of(pod: Object) -> Object:
    """The stage's container as it was asked for."""
    containers: list[Object] = pod.get("spec", {}).get("containers") or [{}]
    return next((one for one in containers if one.get("name") == CONTAINER), containers[0])


def shortened(text: str) -> str:
    """Another program's message on one line, its end kept: there the cause stands."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_WORDS else f"...{line[-MAX_WORDS:]}"


def _told(message: str) -> Object | str:
    """The stage's own last words: the error that it wrote, be it among log lines, or else the last line of text."""
    for text in (message, *reversed(message.splitlines())):
        try:
            told = json.loads(text)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("what"):
            return told
    cut_off = re.search(r'"type": ?"(\w+)", ?"what": ?("(?:[^"\\]|\\.)*)', message)  # 4,096 bytes are kept of a message
    if cut_off:
        return {"type": cut_off[1], "what": json.loads(f'{cut_off[2].rstrip(chr(92))}"')}
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else ""


def _evicted(message: str, whose: Whose) -> RaditError:
    said = shortened(message).rstrip(".") or "the kubelet does not say why"
    if 'volume "shm"' in message:
        todo = f"Raise {whose.field('shared_memory_gib')}."
    elif "EmptyDir volume" in message or "ephemeral" in message:
        todo = f"Raise {whose.field('ephemeral_storage_gib')}: it wrote more than that."
    elif "memory" in message:
        todo = f"Raise {whose.field('memory_gib')}, so that the node keeps as much for it."
    else:
        todo = "Run again; `kubectl describe node` says what the node lacks."
    return StageFailed(f"its pod was evicted: {said}", where=whose.stage, todo=todo)


def _out_of_memory(pod: Object, whose: Whose) -> RaditError:
    limit = container_of(pod).get("resources", {}).get("limits", {}).get("memory")
    what = f"ran out of memory: it may take {limit}" if limit else "ran out of memory: its node had no more"
    todo = f"Raise {whose.field('memory_gib')}, or lower the stage's batch size."
    return StageFailed(what, where=whose.stage, todo=todo)


def _disrupted(condition: Object, whose: Whose) -> RaditError:
    causes = {
        "PreemptionByScheduler": "it made room for a pod of a higher priority",
        "EvictionByEvictionAPI": "it was evicted through the API, as when a node is drained",
        "DeletionByTaintManager": "its node got a taint that it does not accept",
        "DeletionByPodGC": "its node is gone",
        "TerminationByKubelet": "its node ran out of something, or shut down",
    }
    reason = str(condition.get("reason", ""))
    cause = causes.get(reason, shortened(str(condition.get("message", ""))) or reason)
    todo = f"Run again; {whose.field('priority_class')} protects from it." if "Preemption" in reason else "Run again."
    return StageFailed(f"its pod was taken away: {cause}", where=whose.stage, todo=todo)


def _by_code(code: int | None, last_line: str, whose: Whose) -> RaditError:
    if code is None:
        return StageFailed("its pod failed, and does not say why", where=whose.stage, todo=whose.log)
    kind, what = BY_EXIT_CODE.get(code, (StageFailed, f"ended with exit code {code}"))
    todo = whose.log
    if code == 137:
        todo = f"Most often it is memory all the same: raise {whose.field('memory_gib')}. {whose.log}"
    return kind(f"{what}; its last line: {last_line}" if last_line else what, where=whose.stage, todo=todo)


def _condition(pod: Object, kind: str) -> Object | None:
    found = (one for one in pod.get("status", {}).get("conditions") or [] if one.get("type") == kind)
    return next((one for one in found if one.get("status") == "True"), None)
