"""The LM half of RA-DIT by a fine-tuning API: examples or a given job in, the tuned model's name out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from radit_job import observe
from radit_job.model_ref import ModelRef
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.tokens import ServedTokens
from radit_job.records import Example, Message
from radit_job.training.api_artifact import ServedTuning
from radit_job.training.api_examples import MAX_EXAMPLE_TOKENS, training_data
from radit_job.training.api_history import losses_of
from radit_job.training.api_job import ApiJobs
from radit_job.training.api_order import DEAD, Job, hyperparameters_of, is_version_of, order_of
from radit_job.training.api_wait import explain_end, tuned_model, wait_for_end

GIVEN = "It was given as finetune_lm.api.job_id: name another, or none."


@dataclass(frozen=True, slots=True)
class APISettings:
    """How a fine-tuning API tunes, and how it is waited for; the configuration documents each field."""

    epochs: int
    batch_size: int | None
    learning_rate_multiplier: float | None
    suffix: str | None
    seed: int
    poll_s: float
    wait_s: float


def tune_at_service(
    ref: ModelRef,
    train: Sequence[Example],
    dev: Sequence[Example],
    settings: APISettings,
    *,
    scratch: Path,
    ledger: Ledger,
) -> ServedTuning:
    """Have the service tune `ref` on `train`, measuring its loss on `dev`; waits for the job's end.

    However often this is stopped and called again with the same scratch, one job is ordered. ConfigError before that
    if the budget does not suffice; InputError if the service refuses or the job fails, in the service's words;
    ServiceError if it does not answer; TryAgainError after `settings.wait_s`.
    """
    tokens = ServedTokens(ref)
    data = training_data(
        train, dev, lambda messages: n_tokens_of(messages, tokens), max_tokens=ref.context_tokens or MAX_EXAMPLE_TOKENS
    )
    n_tokens = data.training.n_tokens * settings.epochs
    most_tokens = int(n_tokens * tokens.margin)
    observe.log(
        "training tokens, counted here", n_tokens=data.training.n_tokens, epochs=settings.epochs, total=n_tokens
    )
    with closing(Endpoint.open(ref)) as endpoint:
        jobs = ApiJobs(endpoint, ref, scratch, ledger, settings.poll_s)
        job_id = jobs.find(most_tokens=most_tokens)
        if job_id is None:
            order = order_of(
                ref.name,
                data,
                training_files=jobs.upload(data.training),
                validation_files=jobs.upload(data.validation) if data.validation else (),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                learning_rate_multiplier=settings.learning_rate_multiplier,
                suffix=settings.suffix,
                seed=settings.seed,
            )
            job_id = jobs.find_or_order(order, most_tokens=most_tokens)
        job, events = wait_for_end(endpoint, ref, job_id, poll_s=settings.poll_s, wait_s=settings.wait_s)
        name = jobs.settle(job, estimated_tokens=n_tokens)
    _warn_of_other_epochs(job, settings.epochs)
    return ServedTuning(name, ref, job, losses_of(events), data, job.get("trained_tokens") or n_tokens)


def n_tokens_of(messages: Sequence[Message], tokens: ServedTokens) -> int:
    """How long a whole conversation is, answer included: what a service trains on, and charges for."""
    if tokens.chat is None:
        return tokens.n_prompt(messages)
    return tokens.n_prompt(messages[:-1]) + tokens.n_text(messages[-1].content) + 1  # the token that ends it


def take_given_job(ref: ModelRef, job_id: str, settings: APISettings) -> ServedTuning:
    """Wait for a job that exists already; nothing is sent or ordered, and what it costs is not counted."""
    with closing(Endpoint.open(ref)) as endpoint:
        job, events = wait_for_end(
            endpoint, ref, job_id, poll_s=settings.poll_s, wait_s=settings.wait_s, if_unknown=GIVEN
        )
    if job.get("status") in DEAD:
        raise explain_end(job, ref.base_url, todo=GIVEN)
    if not is_version_of(str(job.get("model")), ref.name):
        observe.warn(
            f"the job {job_id} tuned {job.get('model')}, but models.lm is {ref.name}: the arms with the tuned model "
            "and those without compare two base models"
        )
    name = tuned_model(job, ref.base_url)
    return ServedTuning(name, ref, job, losses_of(events), None, job.get("trained_tokens"))


def _warn_of_other_epochs(job: Job, epochs: int) -> None:
    told = hyperparameters_of(job).get("n_epochs")
    if told not in (None, "auto", epochs):
        observe.warn(f"{epochs} epochs were asked for, and the service did {told}")
