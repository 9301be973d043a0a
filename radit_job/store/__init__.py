"""Where artifacts and runs are kept: the protocol (objects), a folder (local), a bucket (s3), commits (artifacts)."""

from __future__ import annotations

from pathlib import Path

from radit_job.errors import ConfigError
from radit_job.store.local import LocalStore
from radit_job.store.objects import ObjectStore
from radit_job.store.s3_address import SCHEME

__all__ = ["LocalStore", "ObjectStore", "open_store"]


def open_store(url: str, *, patience_s: float | None = None) -> ObjectStore:
    """The store in a folder, which need not exist yet, or in a bucket; a URL of another kind raises ConfigError.

    patience_s: how long a server that does not answer is waited for; None: RADIT_STORE_PATIENCE_S, or two minutes.
    """
    if url.startswith(SCHEME):
        from radit_job.store.s3 import open_bucket  # boto3 takes a moment to import, and a folder does without it

        return open_bucket(url, patience_s)
    if "://" in url:
        raise ConfigError(
            f"cannot open the store {url.partition('://')[0]}://...",
            where="store",
            todo="Give a folder's path, or s3://bucket/prefix.",
        )
    return LocalStore(Path(url))
