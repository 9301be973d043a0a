"""ResourceQuotas: an object that would go over one is refused, as the admission plugin does."""

from __future__ import annotations

from typing import Any

from tests.servers.kubernetes.quantities import parse_quantity
from tests.servers.kubernetes.resources import JOBS, PODS, QUOTAS, Resource
from tests.servers.kubernetes.status import forbidden
from tests.servers.kubernetes.storage import Storage

Json = dict[str, Any]


def admit(storage: Storage, resource: Resource, obj: Json) -> None:
    """Forbidden where a quota of the namespace would be exceeded."""
    if resource not in (PODS, JOBS):
        return
    namespace = obj["metadata"]["namespace"]
    quotas = storage.list(QUOTAS, namespace)
    if not quotas:
        return
    wants = _usage(resource, obj)
    used: dict[str, float] = {}
    for other in storage.list(resource, namespace):
        if (other.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            for name, amount in _usage(resource, other).items():
                used[name] = used.get(name, 0) + amount
    for quota in quotas:
        hard = (quota.get("spec") or {}).get("hard") or {}
        over = [name for name in sorted(hard) if name in wants
                and used.get(name, 0) + wants[name] > parse_quantity(hard[name])]  # fmt: skip
        if over:
            said = [
                f"{word}: {','.join(f'{name}={_show(amounts(name))}' for name in over)}"
                for word, amounts in (
                    ("requested", lambda name: wants[name]),
                    ("used", lambda name: used.get(name, 0)),
                    ("limited", lambda name, hard=hard: parse_quantity(hard[name])),
                )
            ]
            why = f"exceeded quota: {quota['metadata']['name']}, {', '.join(said)}"
            raise forbidden(resource, obj["metadata"]["name"], why)


def _usage(resource: Resource, obj: Json) -> dict[str, float]:
    if resource is JOBS:
        return {"count/jobs.batch": 1}
    usage: dict[str, float] = {"pods": 1, "count/pods": 1}
    for container in obj["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            usage[f"requests.{name}"] = usage.get(f"requests.{name}", 0) + parse_quantity(amount)
    return usage


def _show(amount: float) -> str:
    return str(int(amount)) if amount == int(amount) else f"{amount * 1000:.0f}m"
