"""What the Kubernetes API takes as names of labels, annotations and environment variables, said before it is asked.

The rules: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|(ACCESS|SECRET|PRIVATE)_KEY(_ID)?)$", re.IGNORECASE)
# What the Jobs are found by, and what the cluster's own controllers set.
RESERVED_PREFIXES = ("radit-job.io", "batch.kubernetes.io", "kueue.x-k8s.io/queue-name")
RESERVED_LABELS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/component",
    "job-name",
    "controller-uid",
}
RESERVED_ENV = {
    "RADIT_TERMINATION_LOG",
    "RADIT_IMAGE",
    "RADIT_TRY",
    "RADIT_ENDPOINT",
    "RADIT_CONTROLLER_JOB",
    "RADIT_CONTROLLER_JOB_UID",
    "RADIT_PARENT_PIPE",
    "JOB_COMPLETION_INDEX",
}
TEMPLATE_FIELDS = ("metadata", "spec")


def check_labels(value: dict[str, str]) -> dict[str, str]:
    """A label's name and value, as nodeSelector has them too; ValueError names each that is wrong."""
    problems = list(_bad_names(value))
    for name, text in value.items():
        if text and not _NAME.fullmatch(text):
            problems.append(f"the value of {name} must be up to 63 letters, digits and inner dashes, dots, underscores")
    return _refuse(value, problems)


def check_own_labels(value: dict[str, str]) -> dict[str, str]:
    """Labels for Jobs and pods: none of those that radit or the cluster set."""
    return _refuse(check_labels(value), _reserved(value))


def check_annotations(value: dict[str, str]) -> dict[str, str]:
    """An annotation's name; its value is free."""
    return _refuse(value, [*_bad_names(value), *_reserved(value)])


def check_env(value: dict[str, str]) -> dict[str, str]:
    """Names of environment variables that radit does not set itself and that hold no secret."""
    problems = []
    for name in value:
        if not _ENV.fullmatch(name):
            problems.append(f"{name} is no environment variable's name")
        elif name in RESERVED_ENV:
            problems.append(f"{name} is set by radit or by Kubernetes")
        elif _SECRET.search(name):
            problems.append(
                f"{name} looks like a secret, and this file is kept with the run; put it into a Secret, env_from"
            )
    return _refuse(value, problems)


def check_template(value: dict[str, Any]) -> dict[str, Any]:
    """A patch of a pod template has metadata and spec; what is wrong below them, the API server says."""
    unknown = [name for name in value if name not in TEMPLATE_FIELDS and not name.startswith("$")]
    problems = [f"a pod template has metadata and spec, no {', no '.join(unknown)}"] if unknown else []
    problems += [
        f"{name} must be a section" for name in TEMPLATE_FIELDS if name in value and not isinstance(value[name], dict)
    ]
    return _refuse(value, problems)


def _bad_names(names: Iterable[str]) -> Iterable[str]:
    for whole in names:
        prefix, slash, name = whole.rpartition("/")
        if not _NAME.fullmatch(name) or (slash and not (_PREFIX.fullmatch(prefix) and len(prefix) <= 253)):
            yield f"{whole!r} must be up to 63 letters, digits and inner dashes, dots and underscores (example.org/a)"


def _reserved(names: Iterable[str]) -> list[str]:
    return [
        f"{name} is set by radit or by Kubernetes"
        for name in names
        if name in RESERVED_LABELS or name.startswith(RESERVED_PREFIXES)
    ]


def _refuse(value: dict[str, Any], problems: Iterable[str]) -> Any:
    found = list(problems)
    if found:
        raise ValueError("; ".join(found))
    return value
