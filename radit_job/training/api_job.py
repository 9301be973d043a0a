"""One fine-tuning job at a service: its files, its order, what it costs.

An order is paid for, so none is given twice. It is written down before it is given, and its id as soon as there is
one; and wherever no id is written down, the service's own list is asked first whether such a job is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from radit_job import observe
from radit_job.errors import InputError
from radit_job.model_ref import ModelRef, key_variable
from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger, Reservation
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import BROKEN, CallFailed
from radit_job.models.openai_api.patience import patiently
from radit_job.training.api_examples import DataFile
from radit_job.training.api_order import DEAD, Job, JobOrder, JobRecord
from radit_job.training.api_wait import explain_end, tuned_model

LOOK_AGAIN_S = (1.0, 2.0, 4.0)  # a service may take so long to list a job whose order it had not answered yet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApiJobs:
    """The fine-tuning jobs of one service, for one stage."""

    endpoint: Endpoint
    ref: ModelRef
    scratch: Path
    ledger: Ledger
    poll_s: float

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

    def find(self, *, most_tokens: int) -> str | None:
        """The job that an earlier try of this stage ordered, or may have ordered; its id is written down.

        `most_tokens` as for `find_or_order`.
        """
        record = JobRecord.load(self.scratch)
        if record is None:
            return None
        if record.job_id is None:  # it was killed while it ordered
            job_id = self._found(record, n_looks=1 + len(LOOK_AGAIN_S))
        else:
            observe.log("going on with the job of an earlier try", job=record.job_id)
            job_id = record.job_id
        if job_id is not None and record.is_paid_here:  # it may have been killed before it could book it
            self._book(job_id, Reservation(record.order.model, 0.0), most_tokens)
        return job_id

    def find_or_order(self, order: JobOrder, *, most_tokens: int) -> str:
        """The id of the one job for this order, written down in scratch and store, and its cost booked.

        `most_tokens` is what it can train on at most, all epochs together. ConfigError if the budget does not suffice;
        InputError with the service's words if it refuses the order.
        """
        record = JobRecord(order, self.ref.base_url, key_variable(self.ref))
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
        self._book(job_id, reservation, most_tokens)
        settled_id = self._settled(record, job_id)
        if settled_id != job_id:
            self._book(settled_id, Reservation(order.model, 0.0), most_tokens)
            self._book(job_id, Reservation(order.model, 0.0), 0)  # taken back before it has begun
        return settled_id

    def settle(self, job: Job, *, estimated_tokens: int) -> str:
        """The tuned model's name, once its cost is in the ledger; a job that died is told as an InputError.

        `estimated_tokens` stand for the trained ones where the service does not tell them.
        """
        record = JobRecord.load(self.scratch)
        is_dead = job.get("status") in DEAD
        told = job.get("trained_tokens")
        n_tokens = int(told) if told is not None else 0 if is_dead else estimated_tokens
        key = _cost_key(job["id"])
        if record is not None and record.is_paid_here and self.ledger.find(key) is None:
            answer = {"job_id": job["id"], "status": job.get("status"), "model": job.get("fine_tuned_model")}
            usage = Usage(n_calls=1, n_training_tokens=n_tokens)
            self.ledger.keep(key, answer, Reservation(record.order.model, 0.0), usage)
        if is_dead:
            self._forget()  # so that the next run orders another one
            raise explain_end(job, self.ref.base_url)
        name = tuned_model(job, self.ref.base_url)
        if record is not None and not record.is_paid_here:
            self._warn_if_deleted(name)
        return name

    def _warn_if_deleted(self, model: str) -> None:
        """Say so where an earlier run's model is gone: its job, which is still there, is taken again and again."""
        try:
            is_listed = model in self.endpoint.models()
        except CallFailed:
            return
        if not is_listed:
            observe.warn(
                f"the service does not list {model}, which this job made. If it was deleted there, another "
                "finetune_lm.api.suffix makes a new one; --force finetune_lm would take the same job again"
            )

    def _book(self, job_id: str, reservation: Reservation, most_tokens: int) -> None:
        """Count the most that the job may cost until its end tells: it goes on if this stage never comes back to it."""
        self.ledger.book(_cost_key(job_id), reservation, Usage(n_calls=1, n_training_tokens=most_tokens))

    def _found(self, record: JobRecord, *, n_looks: int = 1) -> str | None:
        """Look for the job in the service's list, several times with pauses if asked to; its id is written down."""
        for pause_s in (0.0, *LOOK_AGAIN_S)[:n_looks]:
            time.sleep(min(pause_s, self.poll_s))
            job = record.order.choose(self._patiently(lambda: list(self.endpoint.jobs())))
            if job is not None:
                self._write_down(replace(record, job_id=str(job["id"])))
                whose = "an earlier try" if record.is_paid_here else "an earlier run"
                observe.log(
                    f"the service has this job already, from {whose}; none is ordered "
                    "(another finetune_lm.api.suffix would order one)",
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

    def _write_down(self, record: JobRecord) -> None:
        record.save(self.scratch)
        self.ledger.save()

    def _forget(self) -> None:
        JobRecord.delete(self.scratch)
        self.ledger.save()

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(call, self.ref)


def _cost_key(job_id: str) -> str:
    """Under which the ledger has the job's cost."""
    return f"fine_tuning.jobs/{job_id}"


def _id_of(job: Job) -> str:
    if not job.get("id"):
        raise CallFailed(200, BROKEN, "the answer names no job", may_be_billed=True)
    return str(job["id"])
