"""Locks among the processes of one machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from radit_job.errors import TryAgainError


@contextmanager
def hold_file(file: IO[Any], name: str, where: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock of an open file, and close it then; the kernel releases it with the process, however it ends.

    Where another process holds it: wait, or raise TryAgainError, which says `name` and `where`.
    """
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise TryAgainError(
                f"another process is working on {name}", where=where, todo="Wait for it, or stop it, and try again."
            ) from None
        yield
