"""A strategic-merge patch laid over a pod template, as `kubectl patch --type strategic` would do it on the server."""

from __future__ import annotations

import copy
from typing import Any

from radit_job.errors import ConfigError

# The lists that merge by a key, as `patchMergeKey` in k8s.io/api/core/v1/types.go has them for a pod template. Every
# other list, tolerations, args and envFrom among them, is replaced as a whole.
# https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.35/#podspec-v1-core ("patch merge key")
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "schedulingGates": "name",
    "resourceClaims": "name",
    "evictionResponders": "name",  # from 1.37 on
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ownerReferences": "uid",
}
DIRECTIVE = "$patch"  # delete or replace; merge is what happens without it
RETAIN_KEYS = "$retainKeys"


def strategic_merge(base: dict[str, Any], patch: dict[str, Any], where: str) -> dict[str, Any]:
    """The base with the patch over it; neither is changed.

    null deletes a field; `$patch: delete` an item of a keyed list, `$patch: replace` puts the patch in place of what
    stands there. Items that are new come behind those that exist. ConfigError, at `where`, for what cannot be merged.
    """
    return _mapping(base, patch, where)


def _mapping(base: dict[str, Any], patch: dict[str, Any], where: str) -> dict[str, Any]:
    directive = _directive(patch, where)
    if directive == "delete":
        return {}
    merged = {} if directive == "replace" else copy.deepcopy(base)
    if RETAIN_KEYS in patch:
        merged = {name: value for name, value in merged.items() if name in patch[RETAIN_KEYS]}
    for name, value in patch.items():
        if name in (DIRECTIVE, RETAIN_KEYS):
            continue
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _value(merged.get(name), value, name, f"{where}.{name}")
    return merged


def _value(base: Any, patch: Any, name: str, where: str) -> Any:
    if isinstance(patch, dict):
        if base is not None and not isinstance(base, dict):
            raise ConfigError("fields stand here, where the pod template has a plain value or a list", where=where)
        return _mapping(base or {}, patch, where)
    if isinstance(base, dict):
        raise ConfigError("must be fields, as in the pod template", where=where, todo="null removes them all.")
    if name in MERGE_KEYS:
        if not isinstance(patch, list):
            raise ConfigError("must be a list, as in the pod template", where=where)
        return _keyed_list(base or [], patch, MERGE_KEYS[name], where)
    if isinstance(base, list) and not isinstance(patch, list):
        raise ConfigError("must be a list, as in the pod template", where=where)
    return copy.deepcopy(patch)


def _keyed_list(base: list[Any], patch: list[Any], key: str, where: str) -> list[Any]:
    is_replaced = {DIRECTIVE: "replace"} in patch  # as an item of its own: the other items are the whole list
    merged = [] if is_replaced else copy.deepcopy(base)
    for item in patch:
        if item == {DIRECTIVE: "replace"}:
            continue
        if not isinstance(item, dict) or item.get(key) is None:
            raise ConfigError(f"each item needs its {key}: items are merged by it", where=where)
        position = next((index for index, one in enumerate(merged) if one.get(key) == item[key]), None)
        named = f"{where}[{item[key]}]"
        directive = _directive(item, named)
        if directive == "replace":
            todo = f"`- {DIRECTIVE}: replace`, as an item of its own, replaces the list."
            raise ConfigError("one item of a list cannot be replaced", where=named, todo=todo)
        if directive == "delete":
            merged = [one for one in merged if one.get(key) != item[key]]
        elif position is None:
            merged.append(_mapping({}, item, named))
        else:
            merged[position] = _mapping(merged[position], item, named)
    return merged


def _directive(patch: dict[str, Any], where: str) -> str:
    unknown = [name for name in patch if str(name).startswith("$") and name not in (DIRECTIVE, RETAIN_KEYS)]
    if unknown:
        raise ConfigError(f"the directive {unknown[0]} is not supported", where=where)
    directive = patch.get(DIRECTIVE, "merge")
    if directive not in ("merge", "replace", "delete"):
        raise ConfigError(f"{DIRECTIVE} must be one of merge, replace, delete, not {directive!r}", where=where)
    return str(directive)
