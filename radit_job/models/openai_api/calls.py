"""Many paid calls: a few at a time, each answer kept as it comes, what may pass tried again, any other error final.

A request that has to wait (for the pace, or after a failure) holds no thread: it lies in a heap by the time at which
it may go. The heap is bounded, and requests are made only when it is their turn, so memory does not grow with them.
"""

from __future__ import annotations

import heapq
import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from radit_job import observe
from radit_job.errors import ConfigError
from radit_job.model_ref import ModelRef
from radit_job.models.base import OnDone
from radit_job.models.ledger import Ledger, Reservation, Usage
from radit_job.models.openai_api.client import Reply
from radit_job.models.openai_api.failures import CallFailed, in_words, may_pass
from radit_job.models.openai_api.pacing import Pace

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
WAITING_PER_CALL = 4  # requests that wait for another try, for each call that may be under way
MAX_ADAPTATIONS = 8  # more fields than we send
WARN_AFTER_S = 10.0  # without any answer
GRACE_S = 3.0  # for calls under way when the user interrupts: what they bring is paid for
T = TypeVar("T")


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


def backoff_s(failure: CallFailed, n_failed: int, chance: random.Random) -> float:
    """How long to wait after the n-th failure: as the server asks, else exponentially with full jitter.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    if failure.retry_after_s is not None:
        return failure.retry_after_s * (1 + 0.1 * chance.random())  # not all at the same moment
    return chance.uniform(0, min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(n_failed, 10)))


def _is_hopeless(failure: CallFailed, left_s: float) -> bool:
    """Whether the patience is at its end, or will be before the server wants to be asked again."""
    return left_s <= (failure.retry_after_s or 0.0)


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
                observe.warn(f"{in_words(failure, ref).what}; trying for {left_s:.0f} s more")
        time.sleep(pause_s)


class Calls:
    """The calls to one model; `answers` may be called again and again, and goes on at the pace it has learnt."""

    def __init__(self, ref: ModelRef, ledger: Ledger) -> None:
        self.ref = ref
        self.ledger = ledger
        self.n_lost = 0  # attempts that may have been charged, and whose answer never came
        self.pace = Pace(ref.requests_per_minute, ref.tokens_per_minute, time.monotonic)

    def answers(self, service: Service, requests: Iterable[Request], on_done: OnDone | None = None) -> list[Any]:
        """What `service.read` made of each reply, in the order of the requests; equal requests are asked once.

        RaditError as `failures.in_words` says it, or ConfigError where the budget ends; all that came is kept.
        """
        n_lost_before = self.n_lost
        run = _Run(self, service, iter(requests))
        try:
            run.finish(on_done)
        finally:
            if n_lost := self.n_lost - n_lost_before:
                observe.warn(
                    f"{n_lost} calls to {self.ref.name} brought no answer and may have been charged all the same",
                    n_lost=n_lost,
                )
        return [run.found[row] for row in range(len(run.found))]


@dataclass(order=True, slots=True)
class _Try:
    """A request on its way: waiting, or under way."""

    ready_at_s: float
    row: int
    request: Request = field(compare=False)
    n_prompt_tokens: int = field(compare=False)
    n_failed: int = field(default=0, compare=False)
    n_adapted: int = field(default=0, compare=False)
    failing_since_s: float | None = field(default=None, compare=False)

    @property
    def n_tokens(self) -> int:
        return self.most.n_prompt_tokens + self.most.n_completion_tokens

    @property
    def most(self) -> Usage:
        """What one attempt can use."""
        return Usage(1, math.ceil(self.n_prompt_tokens * self.request.margin), self.request.max_answer_tokens)


class _Run:
    """One list of requests, and the threads that work on it; everything is guarded by `_changed`."""

    def __init__(self, calls: Calls, service: Service, requests: Iterable[Request]) -> None:
        self.found: dict[int, Any] = {}
        self._calls, self._service = calls, service
        self._ref, self._ledger, self._pace = calls.ref, calls.ledger, calls.pace
        self._requests = enumerate(requests)
        self._changed = threading.Condition()
        self._waiting: list[_Try] = []
        self._rows_by_key: dict[str, list[int]] = {}  # of requests that are waiting or under way
        self._is_exhausted = self._is_stopped = False
        self._failure: BaseException | None = None
        self._n_flying = self._n_reserved = 0
        self._failing_since_s: float | None = None  # since the last answer
        self._has_warned = False
        self._chance = random.Random()

    def finish(self, on_done: OnDone | None) -> None:
        """Work until all is answered or one error is final; whoever interrupts waits for a moment only."""
        for number in range(self._ref.concurrency):
            threading.Thread(target=self._work, daemon=True, name=f"call-{number}").start()
        n_told = 0
        try:
            while not (is_over := self._wait_for_news(n_told)):
                n_told = self._tell(on_done, n_told)
            self._tell(on_done, n_told)
        except BaseException:
            with self._changed:
                self._is_stopped = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._n_flying == 0, GRACE_S)
            raise
        if is_over and self._failure is not None:
            raise self._failure

    def _wait_for_news(self, n_told: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over() or len(self.found) > n_told)
            return self._is_over()

    def _tell(self, on_done: OnDone | None, n_told: int) -> int:
        n_found = len(self.found)
        if on_done and n_found > n_told:
            on_done(n_found - n_told)
        return n_found

    def _is_over(self) -> bool:
        if self._failure is not None or self._is_stopped:
            return self._n_flying == 0
        return self._is_exhausted and not self._waiting and self._n_flying == 0

    def _work(self) -> None:
        while (attempt := self._take()) is not None:
            failure: BaseException | None = None
            try:
                self._attempt(attempt)
            except BaseException as error:  # whatever it is, the caller's thread raises it
                failure = error
            with self._changed:
                self._failure = self._failure or failure
                self._n_flying -= 1
                self._changed.notify_all()

    def _take(self) -> _Try | None:
        """The next attempt, when its time has come; None when there is nothing more to do."""
        try:
            return self._next_attempt()
        except BaseException as error:  # making or measuring a request failed
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
            return None

    def _next_attempt(self) -> _Try | None:
        with self._changed:
            while self._failure is None and not self._is_stopped:
                attempt = self._due() or self._fresh()
                pause_s: float | None = None  # until something changes
                if attempt is not None:
                    pause_s = self._pace.take(attempt.n_tokens)
                    if pause_s == 0:
                        self._n_flying += 1
                        return attempt
                    heapq.heappush(self._waiting, attempt)
                elif self._is_over():
                    break
                elif self._waiting:
                    pause_s = self._waiting[0].ready_at_s - time.monotonic()
                self._changed.wait(pause_s if pause_s is None else max(0.0, pause_s))
            self._changed.notify_all()
            return None

    def _due(self) -> _Try | None:
        if self._waiting and self._waiting[0].ready_at_s <= time.monotonic():
            return heapq.heappop(self._waiting)
        return None

    def _fresh(self) -> _Try | None:
        """The next request that is neither answered nor under way."""
        while not self._is_exhausted and len(self._waiting) < WAITING_PER_CALL * self._ref.concurrency:
            row, request = next(self._requests, (0, None))
            if request is None:
                self._is_exhausted = True
                break
            if (kept := self._ledger.find(request.key)) is not None:
                self.found[row] = kept
                self._changed.notify_all()
            elif request.key in self._rows_by_key:
                self._rows_by_key[request.key].append(row)
            else:
                self._rows_by_key[request.key] = [row]
                return _Try(time.monotonic(), row, request, request.measure())
        return None

    def _attempt(self, attempt: _Try) -> None:
        reservation = self._reserve(attempt)
        request, began_s = attempt.request, time.monotonic()
        sent = self._service.adapted(request.body)
        try:
            reply = self._service.send(sent, self._ref.timeout_s)
            answer, usage = self._service.read(request, attempt.n_prompt_tokens, reply)
        except CallFailed as failure:
            self._settle(reservation, failure)
            self._after_failure(attempt, failure, sent, began_s)
            return
        used = usage.n_prompt_tokens + usage.n_completion_tokens
        self._pace.answered(reply.headers, attempt.n_tokens - used)
        self._ledger.keep(request.key, answer, reservation, usage)
        with self._changed:
            self._n_reserved -= 1
            self._failing_since_s = None
            for row in self._rows_by_key.pop(request.key):
                self.found[row] = answer
            self._changed.notify_all()

    def _reserve(self, attempt: _Try) -> Reservation:
        """Set aside what it may cost; what calls under way have set aside and will not need is waited for."""
        with self._changed:
            while True:
                try:
                    reservation = self._ledger.reserve(self._ref.name, attempt.most)
                except ConfigError:
                    if self._n_reserved == 0 or self._is_stopped or self._failure is not None:
                        raise
                    self._changed.wait()
                else:
                    self._n_reserved += 1
                    return reservation

    def _settle(self, reservation: Reservation, failure: CallFailed) -> None:
        """A refused call cost nothing; what a lost one may have cost stays set aside."""
        with self._changed:
            self._n_reserved -= 1
            if failure.may_be_billed:
                self._calls.n_lost += 1
            else:
                self._ledger.release(reservation)
            self._changed.notify_all()

    def _after_failure(self, attempt: _Try, failure: CallFailed, sent: dict[str, Any], began_s: float) -> None:
        """Try again, now or later; raises what is final."""
        if attempt.n_adapted < MAX_ADAPTATIONS and self._service.adapt(failure, attempt.request.body, sent):
            attempt.n_adapted += 1
            self._put_back(attempt, time.monotonic())
            return
        if not may_pass(failure):
            raise in_words(failure, self._ref) from failure
        if failure.status in (429, 503):
            self._pace.refused(failure.retry_after_s)
        pause_s = backoff_s(failure, attempt.n_failed, self._chance)
        attempt.n_failed += 1
        attempt.failing_since_s = attempt.failing_since_s or began_s
        with self._changed:
            self._failing_since_s = self._failing_since_s or began_s
            now_s = time.monotonic()
            silent_s = now_s - self._failing_since_s
            # Its own time counts, too: others may be answered while this one fails for ever.
            left_s = self._ref.patience_s - max(silent_s, now_s - attempt.failing_since_s)
            has_warned, self._has_warned = self._has_warned, self._has_warned or silent_s > WARN_AFTER_S
        if _is_hopeless(failure, left_s):
            raise in_words(failure, self._ref) from failure
        if silent_s > WARN_AFTER_S and not has_warned:
            observe.warn(f"{in_words(failure, self._ref).what}; trying for {left_s:.0f} s more")
        self._put_back(attempt, now_s + min(pause_s, left_s))

    def _put_back(self, attempt: _Try, ready_at_s: float) -> None:
        with self._changed:
            attempt.ready_at_s = ready_at_s
            heapq.heappush(self._waiting, attempt)
            self._changed.notify_all()
