"""The wait for a fine-tuning job at a service, and its end in words."""

from __future__ import annotations

import random
import time
from typing import Any

from radit_job import observe
from radit_job.errors import InputError, RaditError, ServiceError, TryAgainError
from radit_job.model_ref import ModelRef, key_variable
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import CallFailed, may_pass
from radit_job.models.openai_api.patience import patiently
from radit_job.training.api_history import Event, EventLog
from radit_job.training.api_order import DEAD, Job

FIRST_PAUSE_S = 1.0
PAUSE_GROWTH = 1.5
EXPECTED = {
    "validating_files": "having its files checked",
    "queued": "queued",
    "running": "running",
    "succeeded": "done",
    "failed": "over: it failed",
    "cancelled": "over: it was cancelled",
}


def wait_for_end(
    endpoint: Endpoint, ref: ModelRef, job_id: str, *, poll_s: float, wait_s: float, if_unknown: str = ""
) -> tuple[Job, list[Event]]:
    """The job when it has ended, however, and its events, oldest first; they are shown as they come.

    TryAgainError after `wait_s`: the job goes on. InputError where the service does not know it, with `if_unknown` for
    what to do then.
    """
    until_s = time.monotonic() + wait_s
    pause_s, status, has_events = min(FIRST_PAUSE_S, poll_s), "", True
    with observe.progress("fine-tuning", unit="steps") as bar:
        log = EventLog(bar)
        while True:
            job = _asked(endpoint, ref, job_id, if_unknown)
            has_events = has_events and _show_events(endpoint, job_id, log)
            status = _tell_change(job, status)
            if status == "succeeded" or status in DEAD:
                return job, log.events
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TryAgainError(
                    f"the fine-tuning job {job_id} is {status} after {wait_s / 3600:g} h of waiting",
                    where=ref.base_url,
                    todo="It goes on at the service. The same `radit run` waits for it again; `radit cancel` ends it.",
                )
            time.sleep(min(left_s, pause_s * random.uniform(0.75, 1.25)))
            pause_s = min(poll_s, pause_s * PAUSE_GROWTH)


def _asked(endpoint: Endpoint, ref: ModelRef, job_id: str, if_unknown: str) -> Job:
    try:
        return patiently(lambda: endpoint.job(job_id), ref)
    except InputError as error:
        if not (isinstance(error.__cause__, CallFailed) and error.__cause__.status == 404):
            raise
        # The record stays: with the key of another project the job is not to be seen either, and may go on.
        raise InputError(
            f"the service does not know the fine-tuning job {job_id}: {error.__cause__}",
            where=ref.base_url,
            todo=if_unknown
            or f"If another key ordered it, put that one into {key_variable(ref) or 'api_key_env'}. If it was deleted "
            "there, `--force finetune_lm` or another finetune_lm.api.suffix orders a new one.",
        ) from error


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


def _show_events(endpoint: Endpoint, job_id: str, log: EventLog) -> bool:
    """Whether the service tells events at all; those that do not come now come the next time."""
    try:
        log.take(endpoint.job_events(job_id, log.last_id))
    except CallFailed as failure:
        if not may_pass(failure):
            observe.warn(f"the service tells no events of this job: {failure.message}")
            return False
    return True


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
