"""What a stage reads: committed artifacts, fetched and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from radit_job.errors import CorruptArtifact, InputError
from radit_job.jobs import ArtifactRef
from radit_job.store import ObjectStore
from radit_job.store.artifacts import Manifest, fetch, find, read_result


def fetch_input(store: ObjectStore, reference: ArtifactRef, target: Path) -> Path:
    """The folder below `target` that holds the artifact; InputError where it is no longer the one that was meant."""
    manifest = _committed(store, reference.stage, reference.key)
    if manifest.digest_of(reference.artifact) != reference.digest:
        # InputError: what a retry would read is no other.
        raise InputError(
            f"the input {reference.artifact} of {reference.stage} was replaced while this stage waited",
            where=store.url,
            todo="Run again.",
        )
    folder = target / reference.artifact
    folder.mkdir()
    return fetch(store, manifest, reference.artifact, folder)


def lineage_entry(store: ObjectStore, stage: str, key: str) -> dict[str, Any]:
    """One stage behind this one, as the report shows it."""
    manifest = _committed(store, stage, key)
    artifacts = [
        {
            "artifact": name,
            "digest": manifest.digest_of(name),
            "n_bytes": manifest.n_bytes_of(name),
            "n_files": len(files),
        }
        for name, files in manifest.artifacts.items()
    ]
    return {"stage": stage, "key": key, "artifacts": artifacts, **read_result(store, manifest)}


def _committed(store: ObjectStore, stage: str, key: str) -> Manifest:
    manifest = find(store, stage, key)
    if manifest is None:
        raise CorruptArtifact(f"the artifact of {stage} is gone from the store", where=store.url, todo="Run again.")
    return manifest
