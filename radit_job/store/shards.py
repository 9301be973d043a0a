"""A divided stage's commit: every shard commits its part, and whoever sees all parts joins them, copying nothing.

    artifacts/<stage>/<key>/shards/<count>/<index>.json        the part: which attempt won, what it holds, its result
    artifacts/<stage>/<key>/shards/<count>-<try>/<index>.json  the same where an artifact is computed once more

The joined manifest is a function of the parts: several joiners at once write the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radit_job.errors import CorruptArtifact, StageFailed
from radit_job.hashing import digest
from radit_job.jobs import Shard
from radit_job.store.artifacts import (
    FileEntry,
    Manifest,
    commit,
    damage,
    find,
    json_bytes,
    parse_manifest,
    publish_attempt,
    result_name,
    shards_prefix,
)
from radit_job.store.objects import ObjectStore
from radit_job.store.parallel import in_parallel

FIRST_TRY = ""  # its parts outlive a Job: the next one goes on with them


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard committed."""

    manifest: Manifest
    result: dict[str, Any]  # as `publish` takes it, with started_s and ended_s, Unix time


def part_name(stage: str, key: str, shard: Shard, nth_try: str = FIRST_TRY) -> str:
    """Where a shard commits its part."""
    return f"{_folder(stage, key, shard.count, nth_try)}{shard.index:05d}.json"


def find_part(store: ObjectStore, stage: str, key: str, shard: Shard, nth_try: str = FIRST_TRY) -> Part | None:
    """A shard's part, or None; one that cannot be read is deleted, and is none either."""
    name = part_name(stage, key, shard, nth_try)
    data = store.read(name)
    if data is None:
        return None
    try:
        return _parse(data, name)
    except CorruptArtifact:
        store.delete(name)
        return None


def publish_part(
    store: ObjectStore,
    stage: str,
    key: str,
    shard: Shard,
    folder: Path,
    artifacts: Sequence[str],
    result: dict[str, Any],
    *,
    nth_try: str = FIRST_TRY,
) -> bool:
    """Upload what a shard wrote and commit it as the shard's part; False where another attempt was first."""

    def put(manifest: Manifest) -> Manifest:
        name = part_name(stage, key, shard, nth_try)
        store.create(name, json_bytes({**manifest.to_json(), "result": result}))
        part = find_part(store, stage, key, shard, nth_try)
        if part is None:
            raise CorruptArtifact("the part vanished while it was read", where=name)
        return part.manifest

    return publish_attempt(store, stage, key, folder, artifacts, put)[1]


def join(
    store: ObjectStore, stage: str, key: str, n_shards: int, *, nth_try: str = FIRST_TRY, replace: bool = False
) -> Manifest | None:
    """Commit the union of all parts, or return None as long as one is missing.

    A part with a damaged file is withdrawn, and CorruptArtifact raised. StageFailed where all shards together wrote
    nothing for an artifact.
    """
    folder = _folder(stage, key, n_shards, nth_try)
    if sum(1 for _ in store.list(folder)) < n_shards:
        return None
    shards = [Shard(index, n_shards) for index in range(n_shards)]
    parts = in_parallel(lambda shard: find_part(store, stage, key, shard, nth_try), shards)
    found = [part for part in parts if part is not None]
    if len(found) < n_shards:
        return None
    manifest = _union(found)
    if trouble := damage(store, manifest):
        _withdraw_damaged(store, manifest, folder, found)
        raise CorruptArtifact(f"{trouble}, of the artifact of {stage}", where=store.url, todo="Run again.")
    store.write(result_name(manifest), json_bytes(joined_result([part.result for part in found])))
    commit(store, manifest, replace=replace)
    return find(store, stage, key)


def joined_result(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all shards together took: counters and CPU time are summed, memory is the largest.

    `seconds` is the time in which at least one shard was at work: waiting for room in a cluster, or from one day to
    the next, is no part of it.
    """
    counters: Counter[str] = Counter()
    spent: dict[str, dict[str, Any]] = {}
    for result in results:
        counters.update(result["counters"])
        for model, item in result.get("spent", {}).items():
            spent[model] = _added(spent[model], item) if model in spent else item
    images = {result["image"]: None for result in results if result.get("image")}
    return {
        "run": results[0]["run"],
        "seconds": round(_covered_s((result["started_s"], result["ended_s"]) for result in results), 3),
        "cpu_seconds": round(sum(result["cpu_seconds"] for result in results), 3),
        "peak_memory_gib": max(result["peak_memory_gib"] for result in results),
        "counters": dict(counters),
        "spent": spent,
        "inputs": results[0]["inputs"],
        "versions": _versions(results),
        "finished_at": max(result["finished_at"] for result in results),
        "n_shards": len(results),
        **({"image": ", ".join(images)} if images else {}),
    }


def attempts_of_parts(store: ObjectStore, stage: str, key: str) -> dict[str, str]:
    """Each part's attempt, by the part's name; one that cannot be read has none."""

    def attempt_of(name: str) -> str | None:
        try:
            return _parse(store.read(name) or b"", name).manifest.attempt
        except CorruptArtifact:
            return None

    names = [info.name for info in store.list(shards_prefix(stage, key))]
    found = zip(names, in_parallel(attempt_of, names), strict=True)
    return {name: attempt for name, attempt in found if attempt is not None}


def _folder(stage: str, key: str, n_shards: int, nth_try: str) -> str:
    return f"{shards_prefix(stage, key)}{n_shards}{f'-{nth_try}' if nth_try else ''}/"


def _parse(data: bytes, name: str) -> Part:
    manifest = parse_manifest(data, name)
    return Part(manifest, json.loads(data)["result"])


def _union(parts: Sequence[Part]) -> Manifest:
    """One manifest for all parts; its own attempt is named after theirs and holds only the result."""
    first = parts[0].manifest
    own = "joined-" + digest([part.manifest.attempt for part in parts]).removeprefix("sha256:")[:12]
    artifacts: dict[str, tuple[FileEntry, ...]] = {}
    for name in first.artifacts:
        entries = [
            replace(entry, attempt=part.manifest.attempt) for part in parts for entry in part.manifest.artifacts[name]
        ]
        entries.sort(key=lambda entry: entry.path)  # as of one process: the digest must not tell how many there were
        if not entries:
            raise StageFailed(f"all {len(parts)} shards together wrote no {name}", where=first.stage)
        twice = [path for path, count in Counter(entry.path for entry in entries).items() if count > 1]
        if twice:
            raise StageFailed(f"two shards wrote {name}/{twice[0]}", where=first.stage)
        artifacts[name] = tuple(entries)
    return Manifest(first.stage, first.key, own, artifacts)


def _withdraw_damaged(store: ObjectStore, manifest: Manifest, folder: str, parts: Sequence[Part]) -> None:
    for index, part in enumerate(parts):
        if damage(store, part.manifest):
            store.delete(f"{folder}{index:05d}.json")


def _added(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two sums of the same names; one that is unknown (None) on either side stays so."""
    unknown = {name for name in first if first[name] is None or second[name] is None}
    return {name: None if name in unknown else first[name] + second[name] for name in first}


def _covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of time spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _versions(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The packages' versions; where shards had different ones, each of them."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for package, version in result["versions"].items():
            found.setdefault(package, {})[version] = None
    return {package: ", ".join(versions) for package, versions in found.items()}
