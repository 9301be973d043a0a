"""What no run refers to any more, for `radit gc`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from radit_job.errors import CorruptArtifact
from radit_job.pipeline.runs import load_run, run_names
from radit_job.store import ObjectStore
from radit_job.store.artifacts import find
from radit_job.store.local import TEMPORARY
from radit_job.store.objects import ObjectInfo
from radit_job.store.shards import attempts_of_parts


def unreferenced(store: ObjectStore) -> dict[str, list[ObjectInfo]]:
    """Object groups that can go: `<stage>/<key>` of artifacts that no run names, attempts that lost or were cut off.

    As long as a divided stage is not committed as a whole, the parts of its shards are what a run goes on from.
    """
    kept = _referenced(store)
    in_use: dict[tuple[str, str], _InUse] = {}
    groups: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in store.list("artifacts/"):
        _, stage, key, rest = info.name.split("/", 3)
        if (stage, key) not in kept:
            groups[f"{stage}/{key}"].append(info)
            continue
        if (stage, key) not in in_use:
            in_use[stage, key] = _find_in_use(store, stage, key)
        used, folder = in_use[stage, key], rest.split("/")[0]
        if rest != "manifest.json" and folder not in used.attempts and rest not in used.parts:
            groups[f"{stage}/{key}/{folder}"].append(info)
    for info in store.list(f"{TEMPORARY}/"):
        groups[TEMPORARY].append(info)
    for info in store.list("scratch/"):
        _, stage, name = info.name.split("/")[:3]
        key = re.split(r"[-.]", name)[0]  # behind it: which shard, and what for
        if (stage, key) not in kept:  # a checkpoint of an interrupted run is what it goes on from
            groups[f"scratch/{stage}/{name}"].append(info)
    return dict(groups)


def delete(store: ObjectStore, groups: Iterable[list[ObjectInfo]]) -> None:
    """Delete groups; of each the manifest first, so that what is half deleted is no artifact."""
    for group in groups:
        for info in sorted(group, key=lambda item: not item.name.endswith("/manifest.json")):
            store.delete(info.name)


@dataclass(frozen=True, slots=True)
class _InUse:
    """What is kept of one key."""

    attempts: set[str]
    parts: set[str]  # of shards, by their place below the key


def _find_in_use(store: ObjectStore, stage: str, key: str) -> _InUse:
    try:
        manifest = find(store, stage, key)
    except CorruptArtifact:
        manifest = None
    parts = attempts_of_parts(store, stage, key)
    attempts = set(parts.values()) if manifest is None else manifest.attempts()
    prefix = f"artifacts/{stage}/{key}/"
    return _InUse(attempts, {name.removeprefix(prefix) for name, attempt in parts.items() if attempt in attempts})


def _referenced(store: ObjectStore) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for run in run_names(store):
        record = load_run(store, run)
        if record is not None:
            found |= set(record.sources.items())
            found |= {(stage.stage, stage.key) for stage in record.stages.values() if stage.key}
    return found
