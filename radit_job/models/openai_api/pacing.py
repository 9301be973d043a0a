"""When the next call may begin: by the limits that the user set, and by what the server's headers tell.

Nothing here waits: `take` says for how long the caller has to, so that time can be a number in tests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SLACK_S = 0.25  # a thread that wakes late may catch up so much, or the limit would never be reached
MINUTE_S = 60.0  # the headers' limits are per minute; one per day is reset in hours, yet lets a call through at times
SHORT_S = 0.25  # costs little, and a server that asks for so little knows when there is room
STORM = 3  # refusals in a row, with no success between them, that hold back all calls and not only the refused one
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def duration_s(text: str | None) -> float | None:
    """Seconds of OpenAI's durations ("1s", "6m0s", "20ms", "1h2m3.5s") or of a bare number; None for anything else."""
    text = (text or "").strip()
    if DURATION.fullmatch(text):
        return sum(float(number) * UNITS_S[unit] for number, unit in PART.findall(text))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


@dataclass(slots=True)
class _Bucket:
    """What the server said is left of one of its limits: our mirror of a bucket that refills evenly."""

    count: float = 0.0
    seen_at_s: float = 0.0
    per_s: float | None = None  # how fast it refills; None where the headers do not tell
    reset_at_s: float = float("-inf")  # when it is full again

    def level(self, now_s: float) -> float:
        """How much should be there by now."""
        return self.count + (self.per_s or 0.0) * (now_s - self.seen_at_s)

    def wait_s(self, needed: int, now_s: float) -> float:
        """How long until so much is there; never beyond the reset, for then there is as much as there can be."""
        until_reset_s = max(0.0, self.reset_at_s - now_s)
        if self.count >= needed or until_reset_s == 0:
            return 0.0
        if self.per_s is None:
            return until_reset_s
        refilled_at_s = self.seen_at_s + (needed - self.count) / self.per_s
        return min(until_reset_s, max(0.0, refilled_at_s - now_s))


class Pace:
    """The pace of all calls to one model; may be asked from many threads."""

    def __init__(
        self, requests_per_minute: int | None, tokens_per_minute: int | None, clock: Callable[[], float]
    ) -> None:
        """`clock` gives seconds that only grow, such as `time.monotonic`."""
        self._clock = clock
        self._lock = threading.Lock()
        self._request_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request_s = self._next_token_s = clock()
        self._requests_left, self._tokens_left = _Bucket(), _Bucket()
        self._paused_until_s = float("-inf")
        self._n_refused = 0
        self._shortest_s = 0.0  # that was asked for in this row of refusals

    def take(self, n_tokens: int) -> float:
        """0, and the caller goes now; or how many seconds to wait before asking again.

        `n_tokens` is what the call may use at most, prompt and answer together.
        """
        with self._lock:
            now_s = self._clock()
            wait_s = max(
                0.0,
                self._paused_until_s - now_s,
                self._next_request_s - now_s,
                self._next_token_s - now_s,
                self._requests_left.wait_s(1, now_s),
                self._tokens_left.wait_s(n_tokens, now_s),
            )
            if wait_s > 0:
                return wait_s
            self._next_request_s = max(self._next_request_s, now_s - SLACK_S) + self._request_s
            self._next_token_s = max(self._next_token_s, now_s - SLACK_S) + n_tokens * self._token_s
            self._requests_left.count -= 1
            self._tokens_left.count -= n_tokens
            return 0.0

    def answered(self, headers: Mapping[str, str], n_unused_tokens: int = 0) -> None:
        """A call succeeded: what its headers tell, and how many of its tokens it did not use."""
        with self._lock:
            self._n_refused = 0
            self._next_token_s -= max(0, n_unused_tokens) * self._token_s
            self._requests_left = self._read(headers, "requests", self._requests_left)
            self._tokens_left = self._read(headers, "tokens", self._tokens_left)

    def refused(self, wait_s: float | None) -> None:
        """The server said 429, and to wait so long; only several in a row, or a short wait, are taken for all calls."""
        with self._lock:
            self._n_refused += 1
            if wait_s is None:
                return
            self._shortest_s = wait_s if self._n_refused == 1 else min(wait_s, self._shortest_s)
            if self._n_refused >= STORM or wait_s <= SHORT_S:
                self._paused_until_s = max(self._paused_until_s, self._clock() + self._shortest_s)

    def _read(self, headers: Mapping[str, str], what: str, before: _Bucket) -> _Bucket:
        left = _count(headers.get(f"x-ratelimit-remaining-{what}"))
        reset_s = duration_s(headers.get(f"x-ratelimit-reset-{what}"))
        if left is None or reset_s is None:
            return before
        limit = _count(headers.get(f"x-ratelimit-limit-{what}"))
        per_s = limit / MINUTE_S if limit and reset_s <= MINUTE_S else None  # else it is a limit per day
        now_s = self._clock()
        # The server tells whole numbers. Without the part that has flowed in since the last one, each answer would put
        # off the next call, and the limit would never be reached.
        count = min(max(left, before.level(now_s)), left + 0.999)
        return _Bucket(count, now_s, per_s, now_s + min(reset_s, MINUTE_S))


class Width:
    """How many calls may be under way, for servers that only say that they are busy, and not until when.

    One less for each refusal, and up again by one for each round of answers: it settles near what the server takes at
    once, and stays where it is when a few of many calls are refused. The caller guards it.
    """

    def __init__(self, most: int) -> None:
        self._most = self._level = float(most)

    @property
    def n_calls(self) -> int:
        """At least one."""
        return int(self._level)

    def refused(self) -> None:
        """The server was busy."""
        self._level = max(1.0, self._level - 1)

    def answered(self) -> None:
        """A call succeeded."""
        self._level = min(self._most, self._level + 1 / self._level)


def _count(text: str | None) -> int | None:
    found = re.fullmatch(r"\s*(-?\d{1,15})\s*", text or "")
    return int(found[1]) if found else None
