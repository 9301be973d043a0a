"""The paths that say what the server is and serves; with them kubectl can be pointed at it."""

from __future__ import annotations

from typing import Any

from tests.servers.kubernetes.resources import RESOURCES, SUBRESOURCES

Json = dict[str, Any]
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def answer(path: str, version: str) -> Json | str | None:
    """The document at a path; None where there is none."""
    path = path.rstrip("/")
    groups = sorted({group for group, _ in RESOURCES if group})
    if path in ("/healthz", "/readyz", "/livez"):
        return "ok"
    if path == "/version":
        major, minor, _ = version.removeprefix("v").split(".", 2)
        return {"major": major, "minor": minor, "gitVersion": version, "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in groups]}
    if path == "/api/v1":
        return _resources("", "v1")
    parts = path.split("/")
    if len(parts) == 3 and parts[1] == "apis" and parts[2] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[2])}
    if len(parts) == 4 and parts[1] == "apis" and parts[2] in groups and parts[3] == "v1":
        return _resources(parts[2], "v1")
    return None


def _group(name: str) -> Json:
    served = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(group: str, version: str) -> Json:
    found = []
    for one in RESOURCES.values():
        if one.group == group:
            entry = {"kind": one.kind, "namespaced": one.namespaced, "singularName": one.kind.lower()}
            found.append({**entry, "name": one.plural, "verbs": _VERBS})
            found += [
                {**entry, "name": f"{one.plural}/{sub}", "verbs": ["get"]}
                for plural, sub in sorted(SUBRESOURCES)
                if plural == one.plural
            ]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": found}
