"""What `radit check` reports: one thing looked at, and what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from radit_job.errors import RaditError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    subject: str
    verdict: Literal["ok", "warn", "fail"]
    says: str
    error: RaditError | None = None


def attempt(subject: str, look: Callable[[], Finding | list[Finding]]) -> Iterator[Finding]:
    """What a look found; an error of its own becomes a finding."""
    try:
        seen = look()
    except RaditError as error:
        yield Finding(subject, "fail", str(error), error)
        return
    yield from seen if isinstance(seen, list) else [seen]
