"""The books: every request that came in, and what was billed."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Row:
    """One request."""

    number: int
    operation: str  # chat, completions, embeddings, models, files, fine_tuning.jobs (creating one), ...
    method: str
    path: str
    digest: str  # of the body: the same JSON has the same digest, however it is spaced
    started_s: float  # Unix time
    model: str | None = None
    status: int | None = None  # None: nothing was answered
    fault: str | None = None
    billed: bool = False
    delivered: bool = False  # the whole answer was written to the connection
    prompt_tokens: int = 0
    completion_tokens: int = 0
    training_tokens: int = 0
    ended_s: float | None = None


class Books:
    """Exact under concurrency: an answer that was worked out is billed, whether or not it arrives."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.rows: list[Row] = []
        self._n_rows = 0
        self._in_flight: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()

    def forget(self) -> None:
        """Empty books."""
        with self.lock:
            self.rows.clear()
            self.most_at_once.clear()

    def open(self, operation: str, method: str, path: str, digest: str, model: str | None) -> Row:
        """A request came in."""
        with self.lock:
            self._n_rows += 1
            row = Row(self._n_rows, operation, method, path, digest, time.time(), model)
            self.rows.append(row)
            self._in_flight[operation] += 1
            self.most_at_once[operation] = max(self.most_at_once[operation], self._in_flight[operation])
            return row

    def bill(self, row: Row, *, prompt: int = 0, completion: int = 0) -> None:
        """The work was done."""
        with self.lock:
            row.billed, row.prompt_tokens, row.completion_tokens = True, prompt, completion

    def close(self, row: Row) -> None:
        """The request is over."""
        with self.lock:
            row.ended_s = time.time()
            self._in_flight[row.operation] -= 1

    @property
    def billed(self) -> Counter[str]:
        """Billed requests by operation; `billed["fine_tuning.jobs"]` is the number of jobs that were created."""
        with self.lock:
            return Counter(row.operation for row in self.rows if row.billed)

    @property
    def n_requests(self) -> Counter[str]:
        """Requests by operation, billed or not."""
        with self.lock:
            return Counter(row.operation for row in self.rows)

    def duplicates(self, operation: str) -> dict[str, int]:
        """Bodies that were billed more than once, and how often."""
        with self.lock:
            times = Counter(row.digest for row in self.rows if row.billed and row.operation == operation)
        return {digest: n for digest, n in times.items() if n > 1}

    def tokens(self) -> dict[str, dict[str, int]]:
        """Billed calls and tokens by model: what the invoice says."""
        found: dict[str, dict[str, int]] = {}
        with self.lock:
            for row in self.rows:
                if row.billed:
                    sums = found.setdefault(row.model or "", {"calls": 0, "prompt": 0, "completion": 0, "training": 0})
                    sums["calls"] += 1
                    sums["prompt"] += row.prompt_tokens
                    sums["completion"] += row.completion_tokens
                    sums["training"] += row.training_tokens
        return found

    def to_json(self, *, with_rows: bool) -> dict[str, Any]:
        """Everything, as GET /_state gives it."""
        with self.lock:
            found: dict[str, Any] = {
                "billed": dict(self.billed),
                "n_requests": dict(self.n_requests),
                "duplicates": {name: self.duplicates(name) for name in sorted({row.operation for row in self.rows})},
                "tokens": self.tokens(),
                "statuses": dict(Counter(f"{row.operation} {row.status}" for row in self.rows)),
                "faults": dict(Counter(row.fault for row in self.rows if row.fault)),
                "in_flight": {name: n for name, n in self._in_flight.items() if n},
                "most_at_once": dict(self.most_at_once),
            }
            if with_rows:
                found["rows"] = [asdict(row) for row in self.rows]
            return found


def digest_of(body: Any) -> str:
    """sha256 of JSON in its canonical form, or of plain bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(data).hexdigest()
