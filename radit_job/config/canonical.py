"""Configurations as comparable values: their digest, and how two of them differ."""

from __future__ import annotations

from typing import Any

from radit_job.config.fields import result_values
from radit_job.config.schema import Config
from radit_job.hashing import digest

NO_RESULT = ("name", "store", "kubernetes", "spending")  # what a run is called, where it runs, what it may cost
ABSENT = "(absent)"  # stands for a field that one of two configurations lacks


def canonical_config(config: Config) -> dict[str, Any]:
    """Everything in a configuration that can change a number, as JSON values."""
    return {name: value for name, value in result_values(config).items() if name not in NO_RESULT}


def config_digest(config: Config) -> str:
    """`sha256:<hex>` of `canonical_config`: equal for configurations that mean the same, however they are written."""
    return digest(canonical_config(config))


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields in which two plain configurations (or slices) differ: (dotted path, old value, new value).

    Lists are compared as a whole; a field that one side lacks has the value `ABSENT` there.
    """
    changes: list[tuple[str, Any, Any]] = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += [(f"{name}.{path}", was, now) for path, was, now in changed_fields(before, after)]
        elif before != after:
            changes.append((name, before, after))
    return changes
