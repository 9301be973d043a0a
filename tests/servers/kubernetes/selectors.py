"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.servers.kubernetes.status import bad_request

Json = dict[str, Any]
Test = Callable[[Json], bool]

_SET_BASED = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^)]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^=!]*)$")
_KEY = re.compile(r"^!?\s*[A-Za-z0-9][A-Za-z0-9._/-]*$")
FIELDS = {
    "pods": ("status.phase", "spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName"),
    "events": (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
        "reason", "reportingComponent", "source", "type",
    ),
    "jobs.batch": ("status.successful",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
}  # fmt: skip


def labels_match(selector: str) -> Test:
    """The test that a label selector stands for; a wrong one is BadRequest."""
    tests = [_label_test(part.strip()) for part in _split(selector) if part.strip()]
    return lambda labels: all(test(labels) for test in tests)


def fields_match(selector: str, resource_key: str) -> Test:
    """The test on a whole object that a field selector stands for."""
    tests = [_field_test(part.strip(), resource_key) for part in selector.split(",") if part.strip()]
    return lambda obj: all(test(obj) for test in tests)


def match(resource_key: str, query: dict[str, str]) -> Test:
    """Both selectors of a request."""
    by_label = labels_match(query.get("labelSelector", ""))
    by_field = fields_match(query.get("fieldSelector", ""), resource_key)
    return lambda obj: by_label(obj["metadata"].get("labels") or {}) and by_field(obj)


def _split(selector: str) -> list[str]:
    """At the commas outside parentheses."""
    return re.split(r",(?![^(]*\))", selector)


def _label_test(part: str) -> Test:
    if found := _SET_BASED.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["operator"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUALITY.match(part):
        key, value = found["key"], found["value"].strip()
        if found["operator"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if _KEY.match(part):
        key = part.removeprefix("!").strip()
        return (lambda labels: key not in labels) if part.startswith("!") else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: found '{part}', expected: a requirement of a label")


def _field_test(part: str, resource_key: str) -> Test:
    found = _EQUALITY.match(part)
    if found is None:
        raise bad_request(f"invalid field selector: '{part}'; can't understand '{part}'")
    path, value, negative = found["key"], found["value"].strip(), found["operator"] == "!="
    if path not in ("metadata.name", "metadata.namespace", *FIELDS.get(resource_key, ())):
        raise bad_request(f"field label not supported: {path}")

    def test(obj: Json) -> bool:
        here: Any = obj
        for step in path.split("."):
            here = here.get(step, "") if isinstance(here, dict) else ""
        return (str(here) == value) is not negative

    return test
