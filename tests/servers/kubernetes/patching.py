"""Patches of an object."""

from __future__ import annotations

from typing import Any

from tests.servers.kubernetes.status import bad_request, unsupported_media_type

Json = dict[str, Any]


def apply_patch(obj: Json, patch: Any, content_type: str) -> Json:
    """The patched object. Lists are replaced: the strategic patch is taken for a merge patch."""
    kind = content_type.split(";")[0].strip()
    if kind in ("application/merge-patch+json", "application/strategic-merge-patch+json") and isinstance(patch, dict):
        return _merge(obj, patch)
    if kind == "application/json-patch+json" and isinstance(patch, list):
        for operation in patch:
            obj = _operate(obj, operation)
        return obj
    raise unsupported_media_type(kind)


def _merge(into: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(into) if isinstance(into, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _operate(obj: Any, operation: Json) -> Any:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in str(operation.get("path", "")).split("/")[1:]]
    try:
        return _at(obj, steps, operation)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise bad_request(f"the server rejected our request due to an error in our request: {operation}") from error


def _at(here: Any, steps: list[str], operation: Json) -> Any:
    kind = operation["op"]
    if not steps:
        if kind == "test" and here != operation.get("value"):
            raise ValueError("test failed")
        return here if kind == "test" else operation["value"]
    step, rest = steps[0], steps[1:]
    copy: Any = list(here) if isinstance(here, list) else dict(here)
    key: Any = step if isinstance(copy, dict) else (len(copy) if step == "-" else int(step))
    if rest or kind == "test":
        copy[key] = _at(copy[key], rest, operation)
    elif kind == "remove":
        del copy[key]
    elif kind == "add" and isinstance(copy, list):
        copy.insert(key, operation["value"])
    elif kind in ("add", "replace"):
        if kind == "replace" and isinstance(copy, dict) and key not in copy:
            raise KeyError(key)
        copy[key] = operation["value"]
    else:
        raise ValueError(kind)
    return copy
