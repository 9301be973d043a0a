"""Requests on their way to an answer, and the line in which they wait for another try."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from radit_job.models.cost import Usage
from radit_job.models.openai_api.client import Reply
from radit_job.models.openai_api.failures import CallFailed


@dataclass(frozen=True, slots=True)
class Request:
    """One call that is wanted: `key` names its answer in the ledger."""

    key: str
    body: dict[str, Any]
    measure: Callable[[], int]  # the prompt's tokens; asked only if the answer is not kept yet
    max_answer_tokens: int = 0
    margin: float = 1.0  # how many times what `measure` says the prompt may have


class Service(Protocol):
    """One kind of call: how it is sent, and what its answer holds."""

    def adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body as this server takes it."""
        ...

    def send(self, body: dict[str, Any], timeout_s: float) -> Reply:
        """Raises CallFailed."""
        ...

    def read(self, request: Request, n_prompt_tokens: int, reply: Reply) -> tuple[Any, Usage]:
        """What is kept of a reply, as plain JSON, and what it cost; CallFailed for a reply that is no answer."""
        ...

    def adapt(self, failure: CallFailed, wanted: dict[str, Any], sent: dict[str, Any]) -> bool:
        """Learn from a refusal how this server wants it; False if there is nothing to learn."""
        ...


@dataclass(slots=True)
class Attempt:
    """A request that is waiting, or under way."""

    row: int
    request: Request
    n_prompt_tokens: int
    n_failed: int = 0
    n_adapted: int = 0
    n_lost: int = 0  # tries that may have been charged and brought no answer
    failing_since_s: float | None = None

    @property
    def n_tokens(self) -> int:
        """What one try can use, prompt and answer together."""
        return self.most.n_prompt_tokens + self.most.n_completion_tokens

    @property
    def most(self) -> Usage:
        """What one try can use."""
        return Usage(1, math.ceil(self.n_prompt_tokens * self.request.margin), self.request.max_answer_tokens)


class Waiting:
    """Attempts that wait until their time has come; of those whose time has come the oldest request is first.

    By the time alone a request could be overtaken for ever: whoever has failed often waits long.
    """

    def __init__(self) -> None:
        self._later: list[tuple[float, int, Attempt]] = []
        self._due: list[tuple[int, Attempt]] = []

    def __len__(self) -> int:
        return len(self._later) + len(self._due)

    def put(self, attempt: Attempt, ready_at_s: float) -> None:
        """Each row waits once at most."""
        heapq.heappush(self._later, (ready_at_s, attempt.row, attempt))

    def take(self, now_s: float) -> Attempt | None:
        """The oldest of those that are due."""
        while self._later and self._later[0][0] <= now_s:
            _, row, attempt = heapq.heappop(self._later)
            heapq.heappush(self._due, (row, attempt))
        return heapq.heappop(self._due)[1] if self._due else None

    @property
    def next_at_s(self) -> float:
        """When the next one is due; only if any wait."""
        return float("-inf") if self._due else self._later[0][0]
