"""The parts of the configuration that are about paid services."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from radit_job.config.fields import Section, setting

Dollars = Annotated[float, Field(ge=0)]


class FinetuneAPI(Section):
    """How a fine-tuning API is used."""

    job_id: str | None = setting(
        None,
        "A fine-tuning job that exists already: it is taken, waited for, and none is made.",
        origin="a job is made from the run's own examples",
        min_length=1,
    )
    suffix: str | None = setting(
        None,
        "Part of the tuned model's name at the service; another suffix makes another job of the same examples.",
        origin="none",
        min_length=1,
        max_length=64,
    )
    learning_rate_multiplier: float | None = setting(
        None, "Of the service's own learning rate.", origin="the service's choice", gt=0
    )
    batch_size: int | None = setting(
        None, "Examples in one step.", unit="examples", origin="the service's choice", ge=1
    )
    wait_h: float = setting(
        24.0,
        "How long the stage waits for the job; then it ends with exit code 75, and the next run goes on waiting.",
        unit="hours",
        origin="queues of services",
        changes_results=False,
        gt=0,
    )
    poll_s: float = setting(
        60.0,
        "Longest pause between two looks at the job; they begin at a second.",
        unit="seconds",
        origin="jobs take minutes",
        changes_results=False,
        gt=0,
    )


class Price(Section):
    """What one model costs."""

    input_usd: Dollars = setting(..., "A million tokens of prompts.", unit="US dollars", origin="required")
    output_usd: Dollars = setting(0.0, "A million tokens of answers.", unit="US dollars", origin="an embedder has none")
    training_usd: Dollars | None = setting(
        None, "A million tokens of training, each epoch counted.", unit="US dollars", origin="unknown"
    )


class Spending(Section):
    """What calls to paid services may cost."""

    budget_usd: Dollars | None = setting(
        None,
        "The run stops before the call that would take it beyond this; what it has is kept, and a run under the same "
        "name goes on. Every model of provider openai must have a price then.",
        unit="US dollars",
        origin="no limit",
    )
    prices: dict[str, Price] = setting(
        {},
        "By the model's name. A tuned model (ft:NAME:...) is found under ft:NAME. No price is guessed: a model that is "
        "not here costs an unknown sum.",
        origin="prices change",
    )
