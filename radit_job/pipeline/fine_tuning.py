"""The end of a run's fine-tuning jobs at a service: found by what the stage wrote down in its scratch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

from radit_job.errors import RaditError
from radit_job.model_ref import ModelRef, key_variable
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.patience import patiently
from radit_job.pipeline.runs import RunRecord, spec_keys
from radit_job.store import ObjectStore
from radit_job.store.scratch import saved_files
from radit_job.training.api_order import DEAD, RECORD_FILE, JobRecord

STAGE = "finetune_lm"
PATIENCE_S = 30.0  # somebody waits
TIMEOUT_S = 20.0


def ordered_jobs(store: ObjectStore, record: RunRecord) -> list[JobRecord]:
    """The fine-tuning jobs that the run ordered, or was about to, and whose model is not in the store yet.

    Those of its earlier settings, too: a job goes on though its run no longer wants it.
    """
    found: list[JobRecord] = []
    stage = record.stages.get(STAGE)
    keys = spec_keys(store, record.run, STAGE) | ({stage.key} if stage is not None and stage.key else set())
    for key in sorted(keys):
        for _, path, name in saved_files(store, f"{STAGE}/{key}"):  # with those of tries that replace an artifact
            data = store.read(name) if path == RECORD_FILE else None
            if data is not None and (ordered := JobRecord.parse(data)) not in found:
                found.append(ordered)
    return found


def cancel_fine_tuning(store: ObjectStore, record: RunRecord) -> Iterator[str]:
    """Cancel the run's fine-tuning jobs, and say of each what became of it.

    RaditError where the service cannot be asked, with the command that does it by hand; the other jobs are tried first.
    """
    first: RaditError | None = None
    for ordered in ordered_jobs(store, record):
        ref = ModelRef(
            "openai",
            ordered.order.model,
            base_url=ordered.base_url,
            api_key_env=ordered.key_variable,
            timeout_s=TIMEOUT_S,
            patience_s=PATIENCE_S,
        )
        try:
            yield _cancel(ref, ordered)
        except RaditError as error:
            variable = key_variable(ref)
            unset = f" ({variable} is not set here)" if variable and not os.environ.get(variable) else ""
            told = type(error)(
                f"fine-tuning job {ordered.job_id or '(being ordered)'} is not cancelled: {error.what}{unset}",
                where=ref.base_url,
                todo=by_hand(ordered),
            )
            told.__cause__ = error
            first = first or told
    if first is not None:
        raise first


def _cancel(ref: ModelRef, ordered: JobRecord) -> str:
    with closing(Endpoint.open(ref)) as endpoint:
        if ordered.job_id is None:
            job = ordered.order.choose(patiently(lambda: list(endpoint.jobs()), ref))
        else:
            job_id = ordered.job_id
            job = patiently(lambda: endpoint.job(job_id), ref)
        if job is None:
            return "no fine-tuning job was ordered"
        if job.get("status") == "succeeded" or job.get("status") in DEAD:
            was = "has succeeded" if job["status"] == "succeeded" else f"is {job['status']}"
            return f"fine-tuning job {job['id']} {was} already"
        patiently(lambda: endpoint.cancel_job(str(job["id"])), ref)
        return f"cancelled fine-tuning job {job['id']} of {ordered.order.model}"


def by_hand(ordered: JobRecord) -> str:
    """The command that cancels a job without radit."""
    jobs = f"{ordered.base_url}/fine_tuning/jobs"
    key = f'-H "Authorization: Bearer ${ordered.key_variable}"' if ordered.key_variable else ""
    if ordered.job_id is None:
        return f"By hand: curl {jobs} {key} lists the jobs; its metadata would be radit: {ordered.order.tag}"
    return f"By hand: curl -X POST {jobs}/{ordered.job_id}/cancel {key}"
