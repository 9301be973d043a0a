"""What each stage may see of the configuration. A stage's key holds exactly its slice, so nothing else can rerun it.

Every field is filled from the configuration by its path: the field's own name, or the one given with `at`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from radit_job.config.benchmark import Benchmark
from radit_job.config.fields import Section
from radit_job.config.finetuning import Examples, FinetuneLM, FinetuneRetriever
from radit_job.config.models import Model
from radit_job.config.schema import (
    Answer,
    ArmName,
    Chunking,
    Config,
    Evaluate,
    MetricName,
    Questions,
    Retrieval,
    SplitSettings,
    system_message,
)


def at(path: str, *, changes_results: bool = True) -> Any:
    """Fill this field from the configuration's field at a dotted path; False: it is not in the stage's key."""
    return Field(json_schema_extra={"at": path, "changes_results": changes_results})


class Slice(Section):
    """A stage's part of the configuration."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """Cut this slice out of a whole configuration."""
        return cls.model_validate({name: _look_up(config, path) for name, path in cls.paths().items()})

    @classmethod
    def paths(cls) -> dict[str, str]:
        """Field name -> dotted path in the configuration."""
        found = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            found[name] = str(extra["at"]) if isinstance(extra, dict) and "at" in extra else name
        return found


def _look_up(config: Config, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value.model_dump() if isinstance(value, Section) else value


class IngestSlice(Slice):
    """ingest: how to read and cut."""

    unreadable: Literal["fail", "skip"] = at("corpus.unreadable")
    chunking: Chunking
    embedder: Model = at("models.embedder")  # its tokenizer measures the chunks


class IndexSlice(Slice):
    """index: which encoder."""

    embedder: Model = at("models.embedder")


class GenerateSlice(Slice):
    """generate: where pairs come from, and who writes them."""

    seed: int
    questions: Questions
    question_writer: Model | None = at("models.question_writer")
    embedder: Model | None = at("models.embedder")  # checks that a question finds the sentence it was made from

    @classmethod
    def of(cls, config: Config) -> Self:
        """Without the models where pairs come from a file: what is not opened must not be in the key."""
        whole = super().of(config)
        if whole.questions.source == "generate":
            return whole
        return whole.model_copy(update={"question_writer": None, "embedder": None})


class SplitSlice(Slice):
    """split: shares and sides."""

    seed: int
    split: SplitSettings


class AugmentSlice(Slice):
    """augment: how a question gets its context."""

    retrieval: Retrieval
    seed: int
    training_context: Literal["retrieved", "none"] = at("finetune_lm.context")
    added: Examples = at("finetune_lm.examples")
    embedder: Model = at("models.embedder")


class FinetuneLMSlice(Slice):
    """finetune_lm: which model, and how."""

    seed: int
    lm: Model = at("models.lm")
    finetune_lm: FinetuneLM


class ScoreSlice(Slice):
    """score: which LM, which candidates, and how they stand in a prompt."""

    lm: Model = at("models.lm")
    embedder: Model = at("models.embedder")
    system_prompt: str = at("retrieval.system_prompt")
    topic: str | None = at("retrieval.topic")
    template: str = at("retrieval.template")
    candidates: int = at("finetune_retriever.candidates")
    batch_size: int = at("answer.batch_size", changes_results=False)

    @property
    def system_message(self) -> str:
        """As every arm gets it."""
        return system_message(self.system_prompt, self.topic)


class FinetuneRetrieverSlice(Slice):
    """finetune_retriever: which encoder, and how."""

    seed: int
    embedder: Model = at("models.embedder")
    finetune_retriever: FinetuneRetriever


class AnswerSlice(Slice):
    """answer: which arms, with what context and decoding."""

    seed: int
    lm: Model = at("models.lm")
    embedder: Model = at("models.embedder")
    retrieval: Retrieval
    answer: Answer
    arms: list[ArmName] = at("evaluate.arms")
    train_sample: int = at("evaluate.train_sample")


class EvaluateSlice(Slice):
    """evaluate: what is measured."""

    seed: int
    metrics: list[MetricName] = at("evaluate.metrics")
    recall_at: list[int] = at("evaluate.recall_at")
    bootstrap_samples: int = at("evaluate.bootstrap_samples")
    k: int = at("retrieval.k")
    embedder: Model = at("models.embedder")
    judge: Model | None = at("models.judge")
    judge_repeats: int = at("evaluate.judge_repeats")
    judge_max_tokens: int = at("evaluate.judge_max_tokens")


class BenchmarkSlice(Slice):
    """benchmark: which models, which prompts, and how often."""

    seed: int
    lm: Model = at("models.lm")
    embedder: Model = at("models.embedder")
    retrieval: Retrieval
    answer: Answer
    benchmark: Benchmark


class ReportSlice(Slice):
    """report: the settings to show."""

    seed: int
    chunking: Chunking
    questions: Questions
    split: SplitSettings
    retrieval: Retrieval
    finetune_lm: FinetuneLM
    finetune_retriever: FinetuneRetriever
    answer: Answer
    unreadable: Literal["fail", "skip"] = at("corpus.unreadable")
    lm: Model = at("models.lm")
    embedder: Model = at("models.embedder")
    question_writer: Model | None = at("models.question_writer")
    judge: Model | None = at("models.judge")
    evaluate: Evaluate
    benchmark: Benchmark | None

    @classmethod
    def of(cls, config: Config) -> Self:
        """Without the question writer where it wrote nothing, and the benchmark where there was none."""
        whole = super().of(config)
        unused: dict[str, None] = {}
        if whole.questions.source != "generate":
            unused["question_writer"] = None
        if whole.benchmark is not None and not whole.benchmark.enabled:
            unused["benchmark"] = None
        return whole.model_copy(update=unused)
