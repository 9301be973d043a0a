"""The life of a fine-tuning job at a service: its files, its order, the wait for it, its end.

An order is paid for, so none is given twice. It is written down before it is given, and its id as soon as there is
one; and wherever no id is written down, the service's own list is asked first whether such a job is there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from radit_job import observe
from radit_job.errors import InputError, RaditError, ServiceError, TryAgainError
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger, Reservation, Usage
from radit_job.models.openai_api.calls import patiently
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import BROKEN, CallFailed, may_pass
from radit_job.training.api_examples import DataFile
from radit_job.training.api_history import Event, EventLog
from radit_job.training.api_order import DEAD, Job, JobOrder, JobRecord

FIRST_PAUSE_S = 1.0
PAUSE_GROWTH = 1.5
LOOK_AGAIN_S = (1.0, 2.0, 4.0)  # a service may take so long to list a job whose order it had not answered yet
EXPECTED = {
    "validating_files": "having its files checked",
    "queued": "queued",
    "running": "running",
    "succeeded": "done",
    "failed": "over: it failed",
    "cancelled": "over: it was cancelled",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApiJobs:
    """The fine-tuning jobs of one service, for one stage."""

    endpoint: Endpoint
    ref: ModelRef
    scratch: Path
    ledger: Ledger
    poll_s: float
    wait_s: float

    def upload(self, file: DataFile) -> tuple[str, ...]:
        """The ids of the service's files with this content; it is sent if there is none."""

        def find_or_send() -> tuple[str, ...]:
            same = [
                str(there["id"])
                for there in self.endpoint.files()
                if (there.get("filename"), there.get("bytes")) == (file.name, len(file.data))
                and there.get("status") not in ("error", "deleted")
            ]
            if same:
                observe.log("the service has this file already", file=file.name, id=same[0])
                return tuple(same)
            sent = self.endpoint.upload(file.name, file.data)
            observe.log("uploaded", file=file.name, id=sent, n_rows=file.n_rows, n_bytes=len(file.data))
            return (sent,)

        return self._patiently(find_or_send)

    def find(self) -> str | None:
        """The job that an earlier try of this stage ordered, or may have ordered; its id is written down."""
        record = JobRecord.load(self.scratch)
        if record is None:
            return None
        if record.job_id is None:  # it was killed while it ordered
            return self._found(record, n_looks=1 + len(LOOK_AGAIN_S))
        observe.log("going on with the job of an earlier try", job=record.job_id)
        return record.job_id

    def find_or_order(self, order: JobOrder, *, most_tokens: int) -> str:
        """The id of the one job for this order, written down in scratch and store.

        `most_tokens` is what it can train on at most, all epochs together. ConfigError if the budget does not suffice;
        InputError with the service's words if it refuses the order.
        """
        record = JobRecord(order, self.ref.base_url, self.ref.api_key_env)
        may_be_ours = JobRecord.load(self.scratch) is not None
        if found := self._found(replace(record, is_paid_here=may_be_ours)):
            return found
        reservation = self.ledger.reserve(order.model, Usage(n_training_tokens=most_tokens))
        self._write_down(record)
        is_doubtful = False

        def look_and_order() -> str:
            nonlocal is_doubtful
            if is_doubtful and (found := self._found(record, n_looks=1 + len(LOOK_AGAIN_S))):
                return found
            try:
                made = _id_of(self.endpoint.create_job(order.body()))
            except CallFailed as failure:
                is_doubtful = is_doubtful or failure.may_be_billed or (failure.status or 0) >= 500
                raise
            self._write_down(replace(record, job_id=made))
            observe.log("ordered a fine-tuning job", job=made, model=order.model)
            return made

        try:
            job_id = self._patiently(look_and_order)
        except InputError:
            self.ledger.release(reservation)
            if not is_doubtful:  # it was refused, and there is none
                self._forget()
            raise
        return self._settled(record, job_id)

    def wait(self, job_id: str) -> tuple[Job, list[Event]]:
        """The job when it has ended, however, and its events, oldest first; they are shown as they come.

        TryAgainError after `wait_s`: the job goes on.
        """
        until_s = time.monotonic() + self.wait_s
        pause_s, status, has_events = min(FIRST_PAUSE_S, self.poll_s), "", True
        with observe.progress("fine-tuning", unit="steps") as bar:
            log = EventLog(bar)
            while True:
                job = self._patiently(lambda: self.endpoint.job(job_id))
                has_events = has_events and self._show_events(job_id, log)
                status = _tell_change(job, status)
                if status == "succeeded" or status in DEAD:
                    return job, log.events
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise TryAgainError(
                        f"the fine-tuning job {job_id} is {status} after {self.wait_s / 3600:g} h of waiting",
                        where=self.ref.base_url,
                        todo="It goes on at the service. The same `radit run` waits for it again; "
                        "`radit cancel` ends it.",
                    )
                time.sleep(min(left_s, pause_s * random.uniform(0.75, 1.25)))
                pause_s = min(self.poll_s, pause_s * PAUSE_GROWTH)

    def settle(self, job: Job, *, estimated_tokens: int) -> str:
        """The tuned model's name, once its cost is in the ledger; a job that died is told as an InputError.

        `estimated_tokens` stand for the trained ones where the service does not tell them.
        """
        record = JobRecord.load(self.scratch)
        is_dead = job.get("status") in DEAD
        told = job.get("trained_tokens")
        n_tokens = int(told) if told is not None else 0 if is_dead else estimated_tokens
        key = f"fine_tuning.jobs/{job['id']}"
        if record is not None and record.is_paid_here and n_tokens and self.ledger.find(key) is None:
            model = record.order.model
            answer = {"job_id": job["id"], "status": job.get("status"), "model": job.get("fine_tuned_model")}
            self.ledger.keep(key, answer, Reservation(model, 0.0), Usage(n_calls=1, n_training_tokens=n_tokens))
        if is_dead:
            self._forget()  # so that the next run orders another one
            raise explain_end(job, self.ref.base_url)
        return tuned_model(job, self.ref.base_url)

    def _found(self, record: JobRecord, *, n_looks: int = 1) -> str | None:
        """Look for the job in the service's list, several times with pauses if asked to; its id is written down."""
        for pause_s in (0.0, *LOOK_AGAIN_S)[:n_looks]:
            time.sleep(min(pause_s, self.poll_s))
            job = record.order.choose(self._patiently(lambda: list(self.endpoint.jobs())))
            if job is not None:
                self._write_down(replace(record, job_id=str(job["id"])))
                whose = "an earlier try" if record.is_paid_here else "an earlier run"
                observe.log(
                    f"the service has this job already, from {whose}; none is ordered",
                    job=job["id"],
                    status=job.get("status"),
                )
                return str(job["id"])
        return None

    def _settled(self, record: JobRecord, job_id: str) -> str:
        """The job that stands, should an order that seemed lost have arrived after all, or two machines have ordered.

        All see the same jobs and choose the same one; the others are taken back before they have begun.
        """
        jobs = self._patiently(lambda: list(self.endpoint.jobs()))
        chosen = record.order.choose(jobs)
        if chosen is None:  # the list does not show it yet
            return job_id
        for surplus in record.order.surplus(jobs, chosen, own_id=job_id):
            observe.warn(f"the service has two jobs for one order; {surplus} is cancelled, {chosen['id']} stays")
            self._cancel(surplus)
        self._write_down(replace(record, job_id=str(chosen["id"])))
        return str(chosen["id"])

    def _cancel(self, job_id: str) -> None:
        try:
            self._patiently(lambda: self.endpoint.cancel_job(job_id))
        except InputError as error:  # it has ended, or another machine has cancelled it
            observe.warn(f"{job_id} could not be cancelled: {error.what}")

    def _show_events(self, job_id: str, log: EventLog) -> bool:
        """Whether the service tells events at all; those that do not come now come the next time."""
        try:
            log.take(self.endpoint.job_events(job_id, log.last_id))
        except CallFailed as failure:
            if not may_pass(failure):
                observe.warn(f"the service tells no events of this job: {failure.message}")
                return False
        return True

    def _write_down(self, record: JobRecord) -> None:
        record.save(self.scratch)
        self.ledger.save()

    def _forget(self) -> None:
        JobRecord.delete(self.scratch)
        self.ledger.save()

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(call, self.ref)


def tuned_model(job: Job, where: str) -> str:
    """The name of the model that a job made; ServiceError where it has none."""
    name = job.get("fine_tuned_model")
    if not name:
        raise ServiceError(f"the fine-tuning job {job['id']} succeeded, but names no model", where=where)
    return str(name)


def explain_end(job: Job, where: str, todo: str | None = None) -> RaditError:
    """Why a job that failed or was cancelled did so, in the service's words, and what to do."""
    if job.get("status") == "cancelled":
        return InputError(
            f"the fine-tuning job {job['id']} was cancelled",
            where=where,
            todo="By `radit cancel`, or by somebody else with access to the account. "
            + (todo or "Another `radit run` orders a new one."),
        )
    error: dict[str, Any] = dict(job.get("error") or {})
    if error.get("param") == "validation_file" and todo is None:
        todo = "It objects to the held-out examples: set finetune_lm.dev_share to 0, and run again."
    named = ", ".join(f"{name} {error[name]}" for name in ("code", "param") if error.get(name))
    return InputError(
        f"the fine-tuning job {job['id']} failed: {error.get('message') or 'the service does not say why'}"
        f"{f' ({named})' if named else ''}",
        where=where,
        todo=todo or "Put that right; another `radit run` orders a new job.",
    )


def _id_of(job: Job) -> str:
    if not job.get("id"):
        raise CallFailed(200, BROKEN, "the answer names no job", may_be_billed=True)
    return str(job["id"])


def _tell_change(job: Job, before: str) -> str:
    """The job's status; a new one is said, with a warning where nobody knows how long it lasts."""
    status = str(job.get("status"))
    if status == before:
        return status
    if status in EXPECTED:
        observe.log(f"the fine-tuning job is {EXPECTED[status]}", job=job.get("id"))
    else:
        observe.warn(f"the fine-tuning job is {status!r}; waiting until the service goes on with it", job=job.get("id"))
    return status
