"""What no run refers to any more, for `radit gc`.

Locks hold on one machine only. In a bucket two more things guard what is about to be committed from elsewhere: nothing
goes while a run's controller gives a sign of life, and nothing that is younger than a grace time.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from radit_job.errors import CorruptArtifact, TryAgainError
from radit_job.pipeline.heartbeat import is_alive
from radit_job.pipeline.runs import load_run, run_names
from radit_job.store import ObjectStore
from radit_job.store.artifacts import find
from radit_job.store.local import TEMPORARY
from radit_job.store.objects import ObjectInfo
from radit_job.store.shards import attempts_of_parts

GRACE_S = 24 * 3600.0  # a pod that lost its controller may work for so long before it uploads anything
Key = tuple[str, str]  # stage, key


def grace_s_of(store: ObjectStore) -> float:
    """The grace time where none is given; a folder needs none, for its locks are exact."""
    return GRACE_S if "://" in store.url else 0.0


def refuse_while_alive(store: ObjectStore) -> None:
    """TryAgainError naming the runs whose controllers are at work, on whatever machine."""
    names = [info.name.split("/") for info in store.list("runs/")]
    touched = {run for _, run, *rest in names if rest and rest[0].startswith("alive")}
    if alive := sorted(run for run in touched if is_alive(store, run)):
        raise TryAgainError(
            f"at work: {', '.join(alive)}", where=store.url, todo="Wait until they have ended, and try again."
        )


def unreferenced(store: ObjectStore, *, grace_s: float = 0.0) -> dict[str, list[ObjectInfo]]:
    """Object groups that can go: `<stage>/<key>` of artifacts that no run names, attempts that lost or were cut off.

    As long as a stage is not committed as a whole, its scratch and its shards' parts are what a run goes on from. All
    groups of one key are as old as its newest object.
    """
    last_s = time.time() - grace_s
    kept = _referenced(store, last_s)
    committed: dict[Key, _InUse] = {}

    def in_use(key: Key) -> _InUse:
        if key not in committed:
            committed[key] = _find_in_use(store, *key)
        return committed[key]

    groups: dict[str, list[ObjectInfo]] = defaultdict(list)
    key_of: dict[str, Key] = {}
    touched_s: dict[Key, float] = defaultdict(float)

    def add(group: str, key: Key, info: ObjectInfo) -> None:
        groups[group].append(info)
        key_of[group] = key

    for info in store.list("artifacts/"):
        _, stage, name, rest = info.name.split("/", 3)
        key, folder = (stage, name), rest.split("/")[0]
        touched_s[key] = max(touched_s[key], info.modified_s)
        if key not in kept:
            add(f"{stage}/{name}", key, info)
        elif rest != "manifest.json" and folder not in (used := in_use(key)).attempts and rest not in used.parts:
            add(f"{stage}/{name}/{folder}", key, info)
    for info in store.list(f"{TEMPORARY}/"):
        key = (TEMPORARY, "")
        touched_s[key] = max(touched_s[key], info.modified_s)
        add(TEMPORARY, key, info)
    for info in store.list("scratch/"):
        _, stage, name = info.name.split("/")[:3]
        key = (stage, re.split(r"[-.]", name)[0])  # behind it: which try, which shard, and what for
        touched_s[key] = max(touched_s[key], info.modified_s)
        if key not in kept or in_use(key).is_whole:
            add(f"scratch/{stage}/{name}", key, info)
    return {group: infos for group, infos in groups.items() if touched_s[key_of[group]] <= last_s}


def delete(store: ObjectStore, groups: Iterable[list[ObjectInfo]]) -> None:
    """Delete groups; of each the manifest first, so that what is half deleted is no artifact."""
    for group in groups:
        for info in sorted(group, key=lambda item: not item.name.endswith("/manifest.json")):
            store.delete(info.name)


@dataclass(frozen=True, slots=True)
class _InUse:
    """What is kept of one key."""

    is_whole: bool  # committed
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
    used = {name.removeprefix(prefix) for name, attempt in parts.items() if attempt in attempts}
    return _InUse(manifest is not None, attempts, used)


def _referenced(store: ObjectStore, last_s: float) -> set[Key]:
    found: set[Key] = set()
    for run in run_names(store):
        record = load_run(store, run)
        if record is not None:
            found |= set(record.sources.items())
            found |= {(stage.stage, stage.key) for stage in record.stages.values() if stage.key}
    for name in _waiting_jobs(store, last_s):
        found |= _keys_of_job(store.read(name) or b"")
    return found


def _waiting_jobs(store: ObjectStore, last_s: float) -> Iterator[str]:
    """The jobs that were described since their run was last at work, as `radit render` does, or within the grace time.

    Older ones are of the run's earlier settings.
    """
    infos = list(store.list("runs/"))
    saved_s = {info.name: info.modified_s for info in infos if info.name.endswith("/run.json")}
    for info in infos:
        _, run, *rest = info.name.split("/")
        if rest[0] == "jobs" and info.modified_s > min(saved_s.get(f"runs/{run}/run.json", 0.0), last_s):
            yield info.name


def _keys_of_job(data: bytes) -> set[Key]:
    """What a job writes and reads; nothing where its description cannot be read, for then it cannot run."""
    try:
        plain = json.loads(data)
        inputs = {(item["stage"], item["key"]) for item in plain["inputs"]}
        return {(plain["stage"], plain["key"]), *inputs, *((stage, key) for stage, key in plain["lineage"])}
    except (ValueError, KeyError, TypeError):
        return set()
