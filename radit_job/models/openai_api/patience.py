"""When a call that failed is made again; and single calls that are made by these rules."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from radit_job import observe
from radit_job.model_ref import ModelRef
from radit_job.models.openai_api.failures import CallFailed, in_words, may_pass

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
WARN_AFTER_S = 10.0  # without any answer
T = TypeVar("T")


def backoff_s(failure: CallFailed, n_failed: int, chance: random.Random) -> float:
    """How long to wait after the n-th failure: as the server asks, else exponentially with full jitter.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    if failure.retry_after_s is not None:
        return failure.retry_after_s * (1 + 0.1 * chance.random())  # not all at the same moment
    return chance.uniform(0, min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(n_failed, 10)))


def patiently(call: Callable[[], T], ref: ModelRef, *, once_sent: bool = False) -> T:
    """One call by the same rules: tried again for up to `patience_s`, then and for a final error a RaditError.

    `once_sent`: a failure after which the server may have done its work is raised as it is (CallFailed), for the
    caller to look whether it has.
    """
    began_s, chance, n_failed, has_warned = time.monotonic(), random.Random(), 0, False
    while True:
        try:
            return call()
        except CallFailed as failure:
            if once_sent and failure.may_be_billed:
                raise
            pause_s = backoff_s(failure, n_failed, chance)
            n_failed += 1
            left_s = ref.patience_s - (time.monotonic() - began_s)
            if not may_pass(failure) or pause_s > left_s:
                raise in_words(failure, ref) from failure
            if not has_warned and ref.patience_s - left_s > WARN_AFTER_S:
                has_warned = True
                warn_of(failure, ref, left_s)
        time.sleep(pause_s)


def warn_of(failure: CallFailed, ref: ModelRef, left_s: float) -> None:
    """Say that a server has not answered for a while, and for how long it is still asked."""
    observe.warn(f"{in_words(failure, ref).what}; trying for {left_s:.0f} s more")
