"""The protocol of a store: named blobs, with one conditional operation on which every commit rests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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

    def upload(self, name: str, path: Path) -> None:
        """Create or replace an object from a file, which the caller will not change afterwards."""
        ...

    def download(self, name: str, folder: Path) -> Path:
        """A readable file with the object's bytes: in `folder`, or the store's own file where it is one."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose name starts with `prefix`, in the order of their names."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object; deleting what is not there is no error."""
        ...

    def scratch(self, name: str) -> Path:
        """A folder that survives a killed process and is given again under the same name."""
        ...

    def drop_scratch(self, name: str) -> None:
        """Delete a scratch folder."""
        ...

    def hold(self, name: str, *, wait: bool = False) -> AbstractContextManager[None]:
        """Hold a lock that dies with this process; where another one holds it: wait for it, or raise TryAgainError."""
        ...
