"""Artifacts: published by an attempt, committed by a manifest, verified when they are fetched.

    artifacts/<stage>/<key>/manifest.json             the commit: which attempt won, and what it holds
    artifacts/<stage>/<key>/<attempt>/result.json     seconds, memory, tokens, versions
    artifacts/<stage>/<key>/<attempt>/<artifact>/...  the files

Until the manifest exists nothing is committed; a crash leaves an attempt that nobody refers to, for `radit gc`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radit_job.errors import CorruptArtifact, StoreError
from radit_job.hashing import digest, digest_file
from radit_job.store.objects import ObjectStore

MANIFEST_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact."""

    path: str  # slash-separated, below the artifact's folder
    n_bytes: int
    sha256: str  # "sha256:<hex>"


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
        return f"{attempt_prefix(self.stage, self.key, self.attempt)}{artifact}/{entry.path}"


def digest_of(entries: Sequence[FileEntry]) -> str:
    """An artifact's content digest: over its files' paths, sizes and sha256, in the order of their paths."""
    return digest([asdict(entry) for entry in entries])


def attempt_prefix(stage: str, key: str, attempt: str) -> str:
    """Where one attempt's files stand."""
    return f"artifacts/{stage}/{key}/{attempt}/"


def manifest_name(stage: str, key: str) -> str:
    """Where the commit stands."""
    return f"artifacts/{stage}/{key}/manifest.json"


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
    attempt = uuid.uuid4().hex[:12]
    prefix = attempt_prefix(stage, key, attempt)
    won = False
    try:
        entries = {artifact: _upload(store, prefix + artifact, folder / artifact) for artifact in artifacts}
        store.write(prefix + "result.json", _json_bytes(result))
        manifest = Manifest(stage, key, attempt, entries)
        won = _commit(store, manifest, replace=replace)
    finally:
        if not won:
            _delete_attempt(store, prefix)
    if won:
        return manifest, True
    winner = find(store, stage, key)
    if winner is None:
        raise CorruptArtifact("the manifest vanished while it was read", where=manifest_name(stage, key))
    return winner, False


def _commit(store: ObjectStore, manifest: Manifest, *, replace: bool) -> bool:
    name = manifest_name(manifest.stage, manifest.key)
    data = _json_bytes({"format": MANIFEST_FORMAT, **asdict(manifest)})
    if replace:
        store.write(name, data)
        return True
    return store.create(name, data)


def find(store: ObjectStore, stage: str, key: str) -> Manifest | None:
    """The manifest committed under a key, or None; one that cannot be read raises CorruptArtifact."""
    data = store.read(manifest_name(stage, key))
    if data is None:
        return None
    try:
        plain = json.loads(data)
        if plain["format"] != MANIFEST_FORMAT:
            raise StoreError(
                f"format {plain['format']} was written by another version of radit-job",
                where=manifest_name(stage, key),
                todo="Use that version, or another store.",
            )
        artifacts = {name: tuple(FileEntry(**entry) for entry in files) for name, files in plain["artifacts"].items()}
        return Manifest(plain["stage"], plain["key"], plain["attempt"], artifacts)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"the manifest cannot be read: {error}", where=manifest_name(stage, key)) from error


def read_result(store: ObjectStore, manifest: Manifest) -> dict[str, Any]:
    """What the attempt that won said of itself; empty where that is lost, for nothing is decided on it."""
    data = store.read(attempt_prefix(manifest.stage, manifest.key, manifest.attempt) + "result.json")
    try:
        plain = json.loads(data or b"{}")
    except ValueError:
        return {}
    return plain if isinstance(plain, dict) else {}


def damage(store: ObjectStore, manifest: Manifest) -> str | None:
    """A cheap look for missing or truncated files: the first one found, in words, or None."""
    prefix = attempt_prefix(manifest.stage, manifest.key, manifest.attempt)
    sizes = {info.name: info.n_bytes for info in store.list(prefix)}
    for artifact, entries in manifest.artifacts.items():
        for entry in entries:
            n_bytes = sizes.get(manifest.object_name(artifact, entry))
            if n_bytes is None:
                return f"{artifact}/{entry.path} is missing"
            if n_bytes != entry.n_bytes:
                return f"{artifact}/{entry.path} has {n_bytes} bytes, {entry.n_bytes} were committed"
    return None


def withdraw(store: ObjectStore, stage: str, key: str) -> None:
    """Take a commit back: the next run computes it anew."""
    store.delete(manifest_name(stage, key))


def fetch(store: ObjectStore, manifest: Manifest, artifact: str, folder: Path) -> Path:
    """The artifact's folder, every file verified against the manifest; CorruptArtifact where one is not what it was.

    What is damaged is withdrawn, so that the next run computes it anew. A folder store hands out its own files; they
    must not be changed.
    """
    root: Path | None = None
    for entry in manifest.artifacts[artifact]:
        name = manifest.object_name(artifact, entry)
        path = store.download(name, folder)
        if not path.is_file() or path.stat().st_size != entry.n_bytes or digest_file(path) != entry.sha256:
            withdraw(store, manifest.stage, manifest.key)
            raise CorruptArtifact(
                f"{artifact}/{entry.path} is not what {manifest.stage} committed",
                where=f"{store.url}/{name}",
                todo="It is withdrawn; run again, and it is computed anew.",
            )
        root = path.parents[entry.path.count("/")]
    if root is None:
        raise CorruptArtifact(f"{artifact} has no files", where=manifest_name(manifest.stage, manifest.key))
    return root


def _upload(store: ObjectStore, prefix: str, folder: Path) -> tuple[FileEntry, ...]:
    entries = []
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:
        path = folder / name
        entry = FileEntry(name, path.stat().st_size, digest_file(path))
        store.upload(f"{prefix}/{entry.path}", path)
        entries.append(entry)
    return tuple(entries)


def _delete_attempt(store: ObjectStore, prefix: str) -> None:
    for info in list(store.list(prefix)):
        store.delete(info.name)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
