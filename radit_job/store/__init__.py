"""Where artifacts and runs are kept: the protocol (objects), a folder (local), what is committed (artifacts)."""

from __future__ import annotations

from pathlib import Path

from radit_job.errors import ConfigError
from radit_job.store.local import LocalStore
from radit_job.store.objects import ObjectStore

__all__ = ["ObjectStore", "open_store"]


def open_store(url: str) -> ObjectStore:
    """The store at a folder; it need not exist yet. An URL of another kind raises ConfigError."""
    if "://" in url:
        raise ConfigError(
            f"cannot open the store {url!r}",
            where="store",
            todo="This version keeps its artifacts in a folder: give a path.",
        )
    return LocalStore(Path(url))
