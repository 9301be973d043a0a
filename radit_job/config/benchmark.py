"""The configuration's section benchmark: how long one query takes, and where the time goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from radit_job.config.fields import Section, setting

Concurrency = Annotated[int, Field(ge=1, le=1024)]


class Benchmark(Section):
    """How the latency of queries is measured."""

    enabled: bool = setting(
        False, "Whether a run has this stage; `radit bench` runs it in any case.", origin="it costs minutes"
    )
    queries: int = setting(
        4,
        "Questions that are timed, drawn with the seed.",
        unit="questions",
        origin="prompts of several lengths",
        ge=1,
    )
    rewrites: int = setting(
        4,
        "Search queries that the model is asked to make of one question.",
        unit="queries",
        origin="QueryFusionRetriever's num_queries",
        ge=1,
    )
    warmup: int = setting(
        1,
        "Rounds before those that count; one asks each task once at each number of clients.",
        unit="rounds",
        origin="the first calls are slower",
        ge=0,
    )
    repetitions: int = setting(
        2,
        "Rounds over the questions that count. LlamaIndex's clients, where several stand in line, are timed in one.",
        unit="rounds",
        origin="shows the spread",
        ge=1,
    )
    concurrency: list[Concurrency] = setting(
        [1, 2, 4, 8], "How many clients ask at the same time.", unit="clients", origin="common", min_length=1
    )
    baseline: bool = setting(
        True,
        "Whether LlamaIndex's own query engine with its HuggingFaceLLM is timed beside ours, on the same weights; "
        "models in this process only.",
        origin="what people use today",
    )

    @field_validator("concurrency")
    @classmethod
    def _no_repeats(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("a number of clients is named twice")
        return sorted(value)
