"""The protocol of a store: named blobs, with one conditional operation on which every commit rests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from radit_job.errors import StoreError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object."""

    name: str  # slash-separated, relative to the store
    n_bytes: int
    modified_s: float  # Unix time


class ObjectStore(Protocol):
    """Names are slash-separated and relative. What cannot be read or written raises StoreError."""

    @property
    def url(self) -> str:
        """The store's address, as `open_store` takes it."""
        ...

    def read(self, name: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Create or replace an object; a reader sees the old bytes or the new ones, never a mixture."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Create an object unless it exists; of several writers exactly one gets True."""
        ...

    def upload(self, name: str, path: Path) -> str:
        """Create or replace an object from a file, which the caller will not change afterwards; its tagged sha256."""
        ...

    def download(self, name: str, path: Path) -> str:
        """Put the object's bytes at `path`, which must not be changed (a folder store links it); their sha256, tagged.

        An object that is not there raises CorruptArtifact.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose name starts with `prefix`, in the order of their names."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object; deleting what is not there is no error."""
        ...

    def scratch(self, name: str) -> Path:
        """A folder that survives a killed process and is given again under the same name.

        A remote store fills it with what `keep_scratch` last saved; it is for one process at a time.
        """
        ...

    def keep_scratch(self, name: str) -> bool:
        """Save what the scratch folder holds now, so that it survives this machine; a folder store has done so.

        False where the folder changed too fast to be saved as it stood at one moment. Any thread may call it.
        """
        ...

    def drop_scratch(self, name: str) -> None:
        """Delete a scratch folder."""
        ...

    def hold(self, name: str, *, wait: bool = False) -> AbstractContextManager[None]:
        """Hold a lock among the processes of this machine, which dies with its holder.

        Where another one holds it: wait for it, or raise TryAgainError. Between machines nothing is locked: they
        converge by conditional commits.
        """
        ...


def object_path(name: str, where: str) -> PurePosixPath:
    """An object's name as a path; StoreError, which says `where`, if it would lead out of the store."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise StoreError(f"{name!r} is no object's name", where=where)
    return path
