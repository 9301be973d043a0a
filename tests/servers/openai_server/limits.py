"""Rate limits as real token buckets, and the headers that tell of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from tests.servers.openai_server.errors import ApiError, duration, rate_limited


class Bucket:
    """`per_minute` drops flow in evenly; it holds what flows in during `burst_s`, and at least one request's worth."""

    def __init__(self, per_minute: int, burst_s: float, now_s: float) -> None:
        self.per_minute = per_minute
        self.rate = per_minute / 60.0
        self.capacity = max(1.0, self.rate * burst_s)
        self.level, self._at_s = self.capacity, now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until an amount is there; more than the bucket holds is taken from a full one."""
        self.level = min(self.capacity, self.level + (now_s - self._at_s) * self.rate)
        self._at_s = now_s
        return max(0.0, (min(amount, self.capacity) - self.level) / self.rate)

    @property
    def full_in_s(self) -> float:
        return max(0.0, (self.capacity - self.level) / self.rate)


class Limits:
    """Requests and tokens per minute; None: no limit and no header, as with a server of one's own.

    OpenAI enforces a limit over shorter periods than its minute ("quantized"): `burst_s` is that period here.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        burst_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets = {
            name: Bucket(per_minute, burst_s, clock())
            for name, per_minute in (("requests", requests_per_minute), ("tokens", tokens_per_minute))
            if per_minute is not None
        }

    def take(self, model: str, n_tokens: int) -> None:
        """One request of so many tokens; 429 with Retry-After where it is too early. What is refused costs nothing."""
        amounts = {"requests": 1, "tokens": n_tokens}
        with self._lock:
            now_s = self._clock()
            for name, bucket in self._buckets.items():
                wait_s = bucket.wait_s(amounts[name], now_s)
                if wait_s > 0:
                    raise _refusal(model, name, bucket, amounts[name], wait_s)
            for name, bucket in self._buckets.items():
                bucket.level -= min(amounts[name], bucket.capacity)

    def headers(self) -> dict[str, str]:
        """x-ratelimit-..., as on every answer of OpenAI's."""
        with self._lock:
            now_s, found = self._clock(), {}
            for name, bucket in self._buckets.items():
                bucket.wait_s(0, now_s)
                found[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                found[f"x-ratelimit-remaining-{name}"] = str(math.floor(max(bucket.level, 0)))
                found[f"x-ratelimit-reset-{name}"] = duration(bucket.full_in_s)
            return found


def _refusal(model: str, name: str, bucket: Bucket, amount: int, wait_s: float) -> ApiError:
    what = "requests per min (RPM)" if name == "requests" else "tokens per min (TPM)"
    used = round(bucket.per_minute - bucket.level)
    error = rate_limited(model, what, bucket.per_minute, used, amount, wait_s)
    error.headers = {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}
    return error
