"""The status of a pod in each step of its life, as kubelet and scheduler write it."""

from __future__ import annotations

from typing import Any

from tests.servers.kubernetes.storage import now

Json = dict[str, Any]


def scheduled(pod: Json) -> Json:
    """Bound to a node."""
    return _status(pod, "Pending", {"PodScheduled": ("True", "", "")}, None)


def unschedulable(pod: Json, message: str) -> Json:
    """No node will do."""
    return _status(pod, "Pending", {"PodScheduled": ("False", "Unschedulable", message)}, None)


def waiting(pod: Json, reason: str, message: str = "") -> Json:
    """On its node, but not running: ContainerCreating, ErrImagePull, CreateContainerConfigError, …"""
    names = _names(pod)
    said = f"containers with unready status: [{' '.join(names)}]"
    conditions = {
        "PodReadyToStartContainers": ("False" if reason == "ContainerCreating" else "True", "", ""),
        "Initialized": ("True", "", ""),
        "Ready": ("False", "ContainersNotReady", said),
        "ContainersReady": ("False", "ContainersNotReady", said),
    }
    state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    return _status(pod, "Pending", conditions, state)


def running(pod: Json) -> Json:
    """Its command runs."""
    conditions = dict.fromkeys(("PodReadyToStartContainers", "Ready", "ContainersReady"), ("True", "", ""))
    return _status(pod, "Running", conditions, {"running": {"startedAt": now()}})


def terminated(pod: Json, code: int, reason: str, message: str) -> Json:
    """Its command has ended; the phase tells so only a moment later."""
    why = "PodFailed" if code else "PodCompleted"
    conditions = {
        "PodReadyToStartContainers": ("True", "", ""),
        "Initialized": ("True", "" if code else why, ""),
        "Ready": ("False", why, ""),
        "ContainersReady": ("False", why, ""),
    }
    before = (pod["status"].get("containerStatuses") or [{}])[0]
    started = ((before.get("state") or {}).get("running") or {}).get("startedAt") or now()
    state = {
        "terminated": {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": started,
            "finishedAt": now(),
            "containerID": f"containerd://{pod['metadata']['uid'].replace('-', '')}",
            **({"message": message} if message else {}),
        }
    }
    return _status(pod, pod["status"]["phase"], conditions, state)


def ended(pod: Json) -> Json:
    """All that belonged to it is gone: Succeeded or Failed."""
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    phase = "Failed" if code else "Succeeded"
    return _status(pod, phase, {"PodReadyToStartContainers": ("False", "", "")}, None)


def never_ran(pod: Json) -> Json:
    """Deleted before its command ran."""
    if not pod["status"].get("containerStatuses"):
        return {**pod["status"], "phase": "Failed"}
    message = "The container could not be located when the pod was terminated"
    return {**terminated(pod, 137, "ContainerStatusUnknown", message), "phase": "Failed"}


def evicted(pod: Json, message: str) -> Json:
    """Ended by the kubelet, whose node lacks something."""
    return {**pod["status"], "phase": "Failed", "reason": "Evicted", "message": message}


def _status(pod: Json, phase: str, conditions: dict[str, tuple[str, str, str]], state: Json | None) -> Json:
    status = {**pod["status"], "phase": phase}
    there = {one["type"]: one for one in status.get("conditions") or ()}
    for kind, (value, reason, message) in conditions.items():
        before = there.get(kind) or {}
        moment = before["lastTransitionTime"] if before.get("status") == value else now()
        there[kind] = {
            "type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": moment,
            **({"reason": reason} if reason else {}), **({"message": message} if message else {}),
        }  # fmt: skip
    status["conditions"] = list(there.values())
    if state is not None:
        status.setdefault("startTime", now())
        status["hostIP"] = status["podIP"] = "127.0.0.1"
        status["containerStatuses"] = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": "running" in state,
                "started": "running" in state,
                "restartCount": 0,
                "lastState": {},
                "state": state,
            }
            for container in pod["spec"]["containers"]
        ]
    return status


def _names(pod: Json) -> list[str]:
    return [container["name"] for container in pod["spec"]["containers"]]
