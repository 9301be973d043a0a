"""Which node a pod goes to, or the scheduler's words on why none will do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.servers.kubernetes.quantities import parse_quantity

Json = dict[str, Any]
_HELPLESS = "Preemption is not helpful for scheduling"
_NO_VICTIMS = "No preemption victims found for incoming pod"


def node_object(name: str, labels: dict[str, str], capacity: dict[str, str], taints: list[Json]) -> Json:
    """A node that is ready."""
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}},
        "spec": {"taints": taints} if taints else {},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": {"kubeletVersion": "v1.35.0", "architecture": "amd64", "operatingSystem": "linux"},
        },
    }


def requests_of(pod: Json) -> dict[str, float]:
    """What a pod takes of a node."""
    wants: dict[str, float] = {"pods": 1}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            wants[name] = wants.get(name, 0) + parse_quantity(amount)
    return wants


class Allocation:
    """What the pods of each node have taken."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, dict[str, float]]] = {}  # uid of the pod: (node, requests)
        self._used: dict[str, Counter[str]] = {}

    def take(self, node: str, pod: Json) -> None:
        """Count a pod that is bound to a node."""
        uid, wants = pod["metadata"]["uid"], requests_of(pod)
        self._taken[uid] = (node, wants)
        self.used(node).update(wants)

    def release(self, uid: str) -> bool:
        """Count it no longer; whether it was counted."""
        node, wants = self._taken.pop(uid, ("", {}))
        self.used(node).subtract(wants)
        return bool(wants)

    def used(self, node: str) -> Counter[str]:
        """The sum over a node's pods."""
        return self._used.setdefault(node, Counter())


def place(pod: Json, nodes: list[Json], allocation: Allocation) -> tuple[str | None, str]:
    """The name of a node, or None and the reason that the scheduler gives."""
    if not nodes:
        return None, "no nodes available to schedule pods"
    wants = requests_of(pod)
    reasons: Counter[str] = Counter()
    preemption: Counter[str] = Counter()
    for node in nodes:
        said, is_final = _misfit(pod, node, wants, allocation)
        if not said:
            return node["metadata"]["name"], ""
        reasons.update(said)
        preemption[_HELPLESS if is_final else _NO_VICTIMS] += 1
    head = f"0/{len(nodes)} nodes are available: "
    why = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    tail = ", ".join(sorted(f"{count} {reason}" for reason, count in preemption.items()))
    return None, f"{head}{why}. no new claims to deallocate, preemption: {head}{tail}."


def _misfit(pod: Json, node: Json, wants: dict[str, float], allocation: Allocation) -> tuple[list[str], bool]:
    """Why a pod cannot go to a node, and whether other pods' leaving would not help."""
    labels = node["metadata"].get("labels") or {}
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not _is_tolerated(taint, pod["spec"].get("tolerations") or ()):
            return ["node(s) had untolerated taint(s)"], True
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return ["node(s) didn't match Pod's node affinity/selector"], True
    allocatable = {name: parse_quantity(amount) for name, amount in node["status"]["allocatable"].items()}
    used = allocation.used(node["metadata"]["name"])
    lacking = [name for name, amount in wants.items() if amount + used[name] > allocatable.get(name, 0)]
    said = ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in lacking]
    return said, any(wants[name] > allocatable.get(name, 0) for name in lacking)


def _is_tolerated(taint: Json, tolerations: Any) -> bool:
    return any(
        one.get("key") in (None, "", taint["key"])
        and (one.get("operator", "Equal") == "Exists" or one.get("value", "") == taint.get("value", ""))
        and one.get("effect") in (None, "", taint["effect"])
        for one in tolerations
    )
