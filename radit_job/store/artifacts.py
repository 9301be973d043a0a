"""Artifacts: published by an attempt, committed by a manifest, verified when they are fetched.

    artifacts/<stage>/<key>/manifest.json             the commit: which attempt won, and what it holds
    artifacts/<stage>/<key>/<attempt>/result.json     seconds, memory, tokens, versions
    artifacts/<stage>/<key>/<attempt>/<artifact>/...  the files
    artifacts/<stage>/<key>/shards/...                what each process of a divided stage committed: see `shards`

Until the manifest exists nothing is committed; a crash leaves an attempt that nobody refers to, for `radit gc`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radit_job.errors import CorruptArtifact, RaditError, StoreError
from radit_job.hashing import digest
from radit_job.store.objects import ObjectStore, object_path
from radit_job.store.parallel import in_parallel

MANIFEST_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact."""

    path: str  # slash-separated, below the artifact's folder
    n_bytes: int
    sha256: str  # "sha256:<hex>"
    attempt: str = ""  # the one that uploaded it; "" for the manifest's own, which it is unless shards were joined


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one stage committed under one key."""

    stage: str
    key: str
    attempt: str
    artifacts: dict[str, tuple[FileEntry, ...]]

    def digest_of(self, artifact: str) -> str:
        """The artifact's content digest."""
        return digest_of(self.artifacts[artifact])

    def n_bytes_of(self, artifact: str) -> int:
        """Size of the artifact's files together."""
        return sum(entry.n_bytes for entry in self.artifacts[artifact])

    def object_name(self, artifact: str, entry: FileEntry) -> str:
        """Where a file of an artifact stands in the store."""
        return f"{attempt_prefix(self.stage, self.key, entry.attempt or self.attempt)}{artifact}/{entry.path}"

    def attempts(self) -> set[str]:
        """Every attempt that has a file of it."""
        return {self.attempt} | {e.attempt for entries in self.artifacts.values() for e in entries if e.attempt}

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        artifacts = {
            name: [{field: value for field, value in asdict(entry).items() if value != ""} for entry in entries]
            for name, entries in self.artifacts.items()
        }
        return {"format": MANIFEST_FORMAT, **asdict(self), "artifacts": artifacts}


def digest_of(entries: Sequence[FileEntry]) -> str:
    """An artifact's content digest: over its files' paths, sizes and sha256, in the order of their paths."""
    return digest([{"path": entry.path, "n_bytes": entry.n_bytes, "sha256": entry.sha256} for entry in entries])


def attempt_prefix(stage: str, key: str, attempt: str) -> str:
    """Where one attempt's files stand."""
    return f"artifacts/{stage}/{key}/{attempt}/"


def manifest_name(stage: str, key: str) -> str:
    """Where the commit stands."""
    return f"artifacts/{stage}/{key}/manifest.json"


def result_name(manifest: Manifest) -> str:
    """Where the attempt's account of itself stands."""
    return attempt_prefix(manifest.stage, manifest.key, manifest.attempt) + "result.json"


def shards_prefix(stage: str, key: str) -> str:
    """Where the shards of a divided stage commit their parts."""
    return f"artifacts/{stage}/{key}/shards/"


def publish(
    store: ObjectStore,
    stage: str,
    key: str,
    folder: Path,
    artifacts: Sequence[str],
    result: dict[str, Any],
    *,
    replace: bool = False,
) -> tuple[Manifest, bool]:
    """Upload `folder/<artifact>/...` under an attempt of its own and commit it.

    Returns the committed manifest, and whether it is this attempt's: where another was first, its artifact stands,
    unless `replace` says that this one shall take its place.
    """

    def put(manifest: Manifest) -> Manifest:
        store.write(result_name(manifest), json_bytes(result))
        commit(store, manifest, replace=replace)
        return _require(store, stage, key)

    return publish_attempt(store, stage, key, folder, artifacts, put)


def publish_attempt(
    store: ObjectStore,
    stage: str,
    key: str,
    folder: Path,
    artifacts: Sequence[str],
    put: Callable[[Manifest], Manifest],
) -> tuple[Manifest, bool]:
    """Upload under an attempt of its own; `put` commits it and says whose manifest stands then.

    What lost is deleted again. What `put` failed on is not: its commit may have arrived, and `radit gc` knows.
    """
    attempt = uuid.uuid4().hex[:12]
    prefix = attempt_prefix(stage, key, attempt)
    try:
        written = {name: _upload(store, prefix + name, folder / name) for name in artifacts if (folder / name).is_dir()}
    except BaseException:
        with suppress(RaditError):  # the first error is the one to tell
            _delete_attempt(store, prefix)
        raise
    standing = put(Manifest(stage, key, attempt, {name: written.get(name, ()) for name in artifacts}))
    if standing.attempt != attempt:
        _delete_attempt(store, prefix)
    return standing, standing.attempt == attempt


def commit(store: ObjectStore, manifest: Manifest, *, replace: bool) -> None:
    """Write the manifest; where one stands already it stays, unless `replace`."""
    name = manifest_name(manifest.stage, manifest.key)
    data = json_bytes(manifest.to_json())
    if replace:
        store.write(name, data)
    else:
        store.create(name, data)


def _require(store: ObjectStore, stage: str, key: str) -> Manifest:
    found = find(store, stage, key)
    if found is None:
        raise CorruptArtifact("the manifest vanished while it was read", where=manifest_name(stage, key))
    return found


def find(store: ObjectStore, stage: str, key: str) -> Manifest | None:
    """The manifest committed under a key, or None; one that cannot be read raises CorruptArtifact."""
    name = manifest_name(stage, key)
    data = store.read(name)
    return parse_manifest(data, name) if data is not None else None


def parse_manifest(data: bytes, name: str) -> Manifest:
    """The inverse of `Manifest.to_json`, for what stands at `name`; CorruptArtifact where it cannot be read."""
    try:
        plain = json.loads(data)
        if plain["format"] != MANIFEST_FORMAT:
            raise StoreError(
                f"format {plain['format']} was written by another version of radit-job",
                where=name,
                todo="Use that version, or another store.",
            )
        artifacts = {name: tuple(FileEntry(**entry) for entry in files) for name, files in plain["artifacts"].items()}
        return Manifest(plain["stage"], plain["key"], plain["attempt"], artifacts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"the manifest cannot be read: {error}", where=name) from error


def read_result(store: ObjectStore, manifest: Manifest) -> dict[str, Any]:
    """What the attempt that won said of itself; empty where that is lost, for nothing is decided on it."""
    data = store.read(result_name(manifest))
    try:
        plain = json.loads(data or b"{}")
    except ValueError:
        return {}
    return plain if isinstance(plain, dict) else {}


def damage(store: ObjectStore, manifest: Manifest) -> str | None:
    """A cheap look for missing or truncated files: the first one found, in words, or None."""
    sizes = {info.name: info.n_bytes for info in store.list(f"artifacts/{manifest.stage}/{manifest.key}/")}
    for artifact, entries in manifest.artifacts.items():
        for entry in entries:
            n_bytes = sizes.get(manifest.object_name(artifact, entry))
            if n_bytes is None:
                return f"{artifact}/{entry.path} is missing"
            if n_bytes != entry.n_bytes:
                return f"{artifact}/{entry.path} has {n_bytes} bytes, {entry.n_bytes} were committed"
    return None


def withdraw_if_standing(store: ObjectStore, manifest: Manifest) -> bool:
    """Take this commit back, unless another has taken its place; whether it was still there."""
    with suppress(CorruptArtifact):  # what cannot be read is another's by now
        standing = find(store, manifest.stage, manifest.key)
        if standing is not None and standing.attempt == manifest.attempt:
            withdraw(store, manifest.stage, manifest.key)
            return True
    return False


def withdraw(store: ObjectStore, stage: str, key: str) -> None:
    """Take a commit back, and its shards' before it, or they would be joined again: the next run computes it anew."""
    for info in list(store.list(shards_prefix(stage, key))):
        store.delete(info.name)
    store.delete(manifest_name(stage, key))


def fetch(store: ObjectStore, manifest: Manifest, artifact: str, folder: Path) -> Path:
    """Place the artifact's files below `folder`, verified; CorruptArtifact where one is not what was committed.

    What is damaged, read twice, is withdrawn, so that the next run computes it anew. The files must not be changed:
    those of a folder store are the store's own.
    """
    entries = manifest.artifacts[artifact]
    if not entries:
        raise CorruptArtifact(f"{artifact} has no files", where=manifest_name(manifest.stage, manifest.key))
    for parent in {folder / object_path(entry.path, store.url).parent for entry in entries}:
        parent.mkdir(parents=True, exist_ok=True)

    def is_sound(entry: FileEntry) -> bool:
        try:
            return store.download(manifest.object_name(artifact, entry), folder / entry.path) == entry.sha256
        except CorruptArtifact:
            return False

    damaged = [entry for entry, sound in zip(entries, in_parallel(is_sound, entries), strict=True) if not sound]
    damaged = [entry for entry in damaged if not is_sound(entry)]  # it may have been the way here
    if damaged:
        withdrawn = withdraw_if_standing(store, manifest)
        raise CorruptArtifact(
            f"{artifact}/{damaged[0].path} is not what {manifest.stage} committed",
            where=f"{manifest.object_name(artifact, damaged[0])} in {store.url}",
            todo="It is withdrawn; run again, and it is computed anew." if withdrawn else "It is replaced; run again.",
        )
    return folder


def _upload(store: ObjectStore, prefix: str, folder: Path) -> tuple[FileEntry, ...]:
    def upload(path: Path) -> FileEntry:
        name = path.relative_to(folder).as_posix()
        return FileEntry(name, path.stat().st_size, store.upload(f"{prefix}/{name}", path))

    files = [path for path in folder.rglob("*") if path.is_file()]
    return tuple(in_parallel(upload, sorted(files, key=lambda path: path.relative_to(folder).as_posix())))


def _delete_attempt(store: ObjectStore, prefix: str) -> None:
    for info in list(store.list(prefix)):
        store.delete(info.name)


def json_bytes(value: Any) -> bytes:
    """A value as the store keeps it."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
