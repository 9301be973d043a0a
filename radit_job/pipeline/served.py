"""Which served models a run will call, in which stages. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from radit_job.config.models import Model
from radit_job.config.schema import JUDGED_METRICS, Config
from radit_job.pipeline.graph import needed_rows
from radit_job.records import CLOSED_BOOK_ARMS, TUNED_ARMS


@dataclass(frozen=True, slots=True)
class Use:
    """One stage's calls to one served model."""

    stage: str
    role: str  # the field of `models` that names it
    model: Model
    priced_as: str  # the model's name; ft:NAME for one that the service has tuned
    is_training: bool = False


def served_uses(config: Config) -> list[Use]:
    """Every use of a model of provider openai that this configuration comes to, in the order of the stages."""
    names = {row.name for row in needed_rows(config)}
    return [use for use in _uses(config) if use.stage in names and use.model.provider == "openai"]


def _uses(config: Config) -> Iterator[Use]:
    models, arms, metrics = config.models, set(config.evaluate.arms), set(config.evaluate.metrics)
    embedder, lm, writer, judge = models.embedder, models.lm, models.question_writer, models.judge
    yield Use("index", "embedder", embedder, embedder.name)
    if config.questions.source == "generate":
        yield Use("generate", "question_writer", writer, writer.name)
        yield Use("generate", "embedder", embedder, embedder.name)
    if config.finetune_lm.context == "retrieved":
        yield Use("augment", "embedder", embedder, embedder.name)
    if config.finetune_lm.engine == "openai" and config.finetune_lm.api.job_id is None:
        yield Use("finetune_lm", "lm", lm, lm.name, is_training=True)
    yield Use("score", "lm", lm, lm.name)
    if arms - TUNED_ARMS:
        yield Use("answer", "lm", lm, lm.name)
    if arms & TUNED_ARMS:
        yield Use("answer", "lm", lm, tuned_name(lm.name))
    if arms - CLOSED_BOOK_ARMS:
        yield Use("answer", "embedder", embedder, embedder.name)
    yield Use("benchmark", "lm", lm, lm.name)
    yield Use("benchmark", "embedder", embedder, embedder.name)
    if judge is not None and metrics & set(JUDGED_METRICS):
        yield Use("evaluate", "judge", judge, judge.name)
    if "semantic_similarity" in metrics:
        yield Use("evaluate", "embedder", embedder, embedder.name)


def tuned_name(name: str) -> str:
    """How a service's prices name a model that it has tuned; one that is tuned further has its name already."""
    return name if name.startswith("ft:") else f"ft:{name}"
