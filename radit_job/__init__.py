"""radit-job: RA-DIT as a batch job. Documents in; a tuned model and an honest evaluation out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radit_job.api import open_run

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    """`from radit_job import open_run` loads LlamaIndex only for those who ask for it."""
    if name == "open_run":
        from radit_job.api import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
