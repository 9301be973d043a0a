"""Many paid calls: a few at a time, each answer kept as it comes, what may pass tried again, any other error final.

A request that has to wait (for the pace, or after a failure) holds no thread: it waits in a line by the time at which
it may go. The line is bounded, and requests are made only when it is their turn, so memory does not grow with them.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any

from radit_job import observe
from radit_job.errors import ConfigError
from radit_job.model_ref import ModelRef
from radit_job.models.base import OnDone
from radit_job.models.ledger import Ledger, Reservation
from radit_job.models.openai_api.attempts import Attempt, Request, Service, Waiting
from radit_job.models.openai_api.endurance import BUSY, Endurance
from radit_job.models.openai_api.failures import CallFailed, in_words, may_pass, request_in_words
from radit_job.models.openai_api.pacing import Pace, Width

WAITING_PER_CALL = 4  # requests that wait for another try, for each call that may be under way
MAX_ADAPTATIONS = 8  # more fields than we send
GRACE_S = 3.0  # for calls under way when the user interrupts: what they bring is paid for


class Calls:
    """The calls to one model; `answers` may be called again and again, and goes on at the pace it has learnt."""

    def __init__(self, ref: ModelRef, ledger: Ledger) -> None:
        self.ref = ref
        self.ledger = ledger
        self.n_lost = 0  # attempts that may have been charged, and whose answer never came
        self.pace = Pace(ref.requests_per_minute, ref.tokens_per_minute, time.monotonic)
        self.width = Width(ref.concurrency)

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


class _Run:
    """One list of requests, and the threads that work on it; everything is guarded by `_changed`."""

    def __init__(self, calls: Calls, service: Service, requests: Iterable[Request]) -> None:
        self.found: dict[int, Any] = {}
        self._calls, self._service = calls, service
        self._ref, self._ledger = calls.ref, calls.ledger
        self._pace, self._width = calls.pace, calls.width
        self._requests = enumerate(requests)
        self._changed = threading.Condition()
        self._waiting = Waiting()
        self._rows_by_key: dict[str, list[int]] = {}  # of requests that are waiting or under way
        self._sent: dict[int, tuple[Attempt, Reservation]] = {}  # by row: what the server is at work on
        self._is_exhausted = self._is_stopped = False
        self._failure: BaseException | None = None
        self._n_flying = self._n_reserved = 0
        self._endurance = Endurance(calls.ref)

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
            self._give_up_what_is_sent()
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

    def _has_ended(self) -> bool:
        return self._failure is not None or self._is_stopped

    def _is_over(self) -> bool:
        if self._has_ended():
            return self._n_flying == 0
        return self._is_exhausted and not self._waiting and self._n_flying == 0

    # What the threads do

    def _work(self) -> None:
        while (attempt := self._take()) is not None:
            try:
                self._try(attempt)
            except BaseException as error:  # whatever it is, the caller's thread raises it
                self._end(error)
            with self._changed:
                self._n_flying -= 1
                self._changed.notify_all()

    def _end(self, error: BaseException) -> None:
        """The first error that is final is the one that is told."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _take(self) -> Attempt | None:
        """The next attempt, when its time has come; None when there is nothing more to do."""
        try:
            return self._next_attempt()
        except BaseException as error:  # making or measuring a request failed
            self._end(error)
            return None

    def _next_attempt(self) -> Attempt | None:
        with self._changed:
            while not self._has_ended():
                has_room = self._n_flying < self._width.n_calls
                attempt = (self._waiting.take(time.monotonic()) or self._fresh()) if has_room else None
                pause_s: float | None = None  # until something changes
                if attempt is not None:
                    pause_s = self._pace.take(attempt.n_tokens)
                    if pause_s == 0:
                        self._n_flying += 1
                        return attempt
                    self._waiting.put(attempt, time.monotonic())
                elif self._is_over():
                    break
                elif has_room and self._waiting:
                    pause_s = max(0.0, self._waiting.next_at_s - time.monotonic())
                self._changed.wait(pause_s)
            self._changed.notify_all()
            return None

    def _fresh(self) -> Attempt | None:
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
                return Attempt(row, request, request.measure())
        return None

    # One try

    def _try(self, attempt: Attempt) -> None:
        reservation = self._reserve(attempt)
        if reservation is None:
            return
        request, began_s = attempt.request, time.monotonic()
        sent = self._service.adapted(request.body)
        try:
            reply = self._service.send(sent, self._ref.timeout_s)
            answer, usage = self._service.read(request, attempt.n_prompt_tokens, reply)
        except CallFailed as failure:
            if self._has_come_back(attempt):
                try:
                    self._after_failure(attempt, failure, sent, began_s)
                except BaseException as error:
                    self._end(error)  # before what it had set aside is free for others
                    raise
                finally:
                    self._settle(attempt, reservation, failure)
            return
        if not self._has_come_back(attempt):
            return
        used = usage.n_prompt_tokens + usage.n_completion_tokens
        self._pace.answered(reply.headers, attempt.n_tokens - used)
        self._ledger.keep(request.key, answer, reservation, usage)
        with self._changed:
            self._n_reserved -= 1
            self._endurance.answered()
            self._width.answered()
            for row in self._rows_by_key.pop(request.key):
                self.found[row] = answer
            self._changed.notify_all()

    def _reserve(self, attempt: Attempt) -> Reservation | None:
        """Set aside what it may cost; what calls under way have set aside and will not need is waited for.

        None where the end has come meanwhile: nothing more is to be paid for.
        """
        with self._changed:
            while not self._has_ended():
                try:
                    reservation = self._ledger.reserve(self._ref.name, attempt.most)
                except ConfigError:
                    if self._n_reserved == 0:
                        raise
                    self._changed.wait()
                else:
                    self._n_reserved += 1
                    self._sent[attempt.row] = (attempt, reservation)
                    return reservation
            return None

    def _has_come_back(self, attempt: Attempt) -> bool:
        """False if it had been given up, and is in the books as lost."""
        with self._changed:
            return self._sent.pop(attempt.row, None) is not None

    def _give_up_what_is_sent(self) -> None:
        with self._changed:
            sent = list(self._sent.values())
            self._sent.clear()
        for attempt, reservation in sent:
            self._lose(attempt, reservation)

    def _settle(self, attempt: Attempt, reservation: Reservation, failure: CallFailed) -> None:
        """A refused call cost nothing; a lost one is booked with the most that it may have cost."""
        if failure.may_be_billed:
            self._lose(attempt, reservation)
        else:
            self._ledger.release(reservation)
        with self._changed:
            self._n_reserved -= 1
            self._changed.notify_all()

    def _lose(self, attempt: Attempt, reservation: Reservation) -> None:
        with self._changed:
            self._calls.n_lost += 1
        self._ledger.book(f"lost/{uuid.uuid4().hex}", reservation, attempt.most)

    # After a failure

    def _after_failure(self, attempt: Attempt, failure: CallFailed, sent: dict[str, Any], began_s: float) -> None:
        """Try again, now or later; raises what is final."""
        if attempt.n_adapted < MAX_ADAPTATIONS and self._service.adapt(failure, attempt.request.body, sent):
            attempt.n_adapted += 1
            self._put_back(attempt, time.monotonic())
            return
        if not may_pass(failure):
            error = in_words(failure, self._ref)
            error.what += request_in_words(failure, attempt.request.body)
            raise error from failure
        if failure.status in BUSY:
            self._pace.refused(failure.retry_after_s)
        with self._changed:
            if failure.status in BUSY and failure.retry_after_s is None:
                self._width.refused()
            pause_s = self._endurance.pause_s(attempt, failure, began_s, time.monotonic())
        if pause_s is None:
            raise in_words(failure, self._ref) from failure
        self._put_back(attempt, time.monotonic() + pause_s)

    def _put_back(self, attempt: Attempt, ready_at_s: float) -> None:
        with self._changed:
            self._waiting.put(attempt, ready_at_s)
            self._changed.notify_all()
