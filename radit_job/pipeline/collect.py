"""What no run refers to any more, for `radit gc`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from radit_job.errors import CorruptArtifact
from radit_job.pipeline.runs import load_run, run_names
from radit_job.store import ObjectStore
from radit_job.store.artifacts import find
from radit_job.store.local import TEMPORARY
from radit_job.store.objects import ObjectInfo


def unreferenced(store: ObjectStore) -> dict[str, list[ObjectInfo]]:
    """Object groups that can go: `<stage>/<key>` of artifacts that no run names, attempts that lost or were cut off."""
    kept = _referenced(store)
    attempts: dict[tuple[str, str], str | None] = {}
    groups: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in store.list("artifacts/"):
        _, stage, key, rest = info.name.split("/", 3)
        if (stage, key) not in kept:
            groups[f"{stage}/{key}"].append(info)
            continue
        if (stage, key) not in attempts:
            attempts[stage, key] = _committed_attempt(store, stage, key)
        attempt = rest.split("/")[0]
        if rest != "manifest.json" and attempt != attempts[stage, key]:
            groups[f"{stage}/{key}/{attempt}"].append(info)
    for info in store.list(f"{TEMPORARY}/"):
        groups[TEMPORARY].append(info)
    for info in store.list("scratch/"):
        _, stage, key = info.name.split("/")[:3]
        if (stage, key) not in kept:  # a checkpoint of an interrupted run is what it goes on from
            groups[f"scratch/{stage}/{key}"].append(info)
    return dict(groups)


def delete(store: ObjectStore, groups: Iterable[list[ObjectInfo]]) -> None:
    """Delete groups; of each the manifest first, so that what is half deleted is no artifact."""
    for group in groups:
        for info in sorted(group, key=lambda item: not item.name.endswith("/manifest.json")):
            store.delete(info.name)


def _committed_attempt(store: ObjectStore, stage: str, key: str) -> str | None:
    try:
        manifest = find(store, stage, key)
    except CorruptArtifact:
        return None
    return manifest.attempt if manifest else None


def _referenced(store: ObjectStore) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for run in run_names(store):
        record = load_run(store, run)
        if record is not None:
            found |= set(record.sources.items())
            found |= {(stage.stage, stage.key) for stage in record.stages.values() if stage.key}
    return found
