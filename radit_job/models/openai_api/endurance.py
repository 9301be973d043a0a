"""How much failure a list of calls bears, in time and in money, before it is given up."""

from __future__ import annotations

import random

from radit_job.model_ref import ModelRef
from radit_job.models.openai_api.attempts import Attempt
from radit_job.models.openai_api.failures import CallFailed
from radit_job.models.openai_api.patience import WARN_AFTER_S, backoff_s, warn_of

BUSY = (429, 503)
BUSY_DOUBLINGS = 4  # of the pause: fewer calls at once make room, and whoever waits long lets the server stand idle
GATEWAY_IS_DOWN = 502  # said in an outage at once, again and again; charged it may be, but hardly ever is
MAX_LOST = 5  # tries of one request that may each have been charged
MAX_LOST_IN_ROW = 3  # for each call that may be under way, with no answer between them


class Endurance:
    """What one server has failed at since it last answered; the caller guards it."""

    def __init__(self, ref: ModelRef) -> None:
        self._ref = ref
        self._failing_since_s: float | None = None  # since the last answer
        self._n_lost_in_row = 0
        self._has_warned = False
        self._chance = random.Random()

    def answered(self) -> None:
        """A call succeeded."""
        self._failing_since_s = None
        self._n_lost_in_row = 0

    def pause_s(self, attempt: Attempt, failure: CallFailed, began_s: float, now_s: float) -> float | None:
        """How long an attempt waits for its next try, or None where it is time to give up.

        `began_s`: when the try that failed began, by the clock of `now_s`. What the attempt has failed at is noted.
        """
        is_busy = failure.status in BUSY
        pause_s = backoff_s(
            failure, min(attempt.n_failed, BUSY_DOUBLINGS) if is_busy else attempt.n_failed, self._chance
        )
        attempt.n_failed += 1
        self._failing_since_s = self._failing_since_s or began_s
        silent_s = now_s - self._failing_since_s
        left_s = self._ref.patience_s - silent_s
        if not is_busy:
            # Its own time counts, too: others may be answered while this one fails for ever. But a server that is only
            # busy answers others, and will answer this one.
            attempt.failing_since_s = attempt.failing_since_s or began_s
            left_s = min(left_s, self._ref.patience_s - (now_s - attempt.failing_since_s))
        if self._is_too_dear(attempt, failure) or left_s <= (failure.retry_after_s or 0.0):
            return None
        if silent_s > WARN_AFTER_S and not self._has_warned:
            self._has_warned = True
            warn_of(failure, self._ref, left_s)
        return min(pause_s, left_s)

    def _is_too_dear(self, attempt: Attempt, failure: CallFailed) -> bool:
        """Whether so much may have been charged for no answer that another try would be waste."""
        if not failure.may_be_billed or failure.status == GATEWAY_IS_DOWN:
            return False
        attempt.n_lost += 1
        self._n_lost_in_row += 1
        return attempt.n_lost >= MAX_LOST or self._n_lost_in_row >= MAX_LOST_IN_ROW * self._ref.concurrency
