"""The configuration: one pydantic model per section; every field with its meaning, unit and its default's origin.

`radit config` prints this file's content as commented YAML, so nobody has to read it here. Unknown keys are errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from radit_job.config.benchmark import Benchmark
from radit_job.config.cluster import Kubernetes
from radit_job.config.fields import Section, section, setting
from radit_job.config.finetuning import FinetuneLM, FinetuneRetriever
from radit_job.config.models import Models
from radit_job.config.services import Spending
from radit_job.records import RETRIEVER_ARMS, TUNED_ARMS

ArmName = Literal["closed_book", "base", "few_shot", "lm", "lm_closed_book", "retriever", "dual"]
MetricName = Literal[
    "exact_match",
    "token_f1",
    "rouge_l",
    "semantic_similarity",
    "answer_nats_per_token",
    "recall_at_k",
    "mrr",
    "correctness",
    "faithfulness",
    "relevancy",
    "preference",
]
JUDGED_METRICS = ("correctness", "faithfulness", "relevancy", "preference")
RunName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"),
    Field(json_schema_extra={"form": "1 to 40 lower-case letters, digits and inner dashes"}),
]
Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1)]

# LlamaIndex's DEFAULT_TEXT_QA_PROMPT, which the notebook uses for its training examples as well.
NOTEBOOK_TEMPLATE = (
    "Context information is below.\n"
    "---------------------\n"
    "{context}\n"
    "---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\n"
    "Query: {question}\n"
    "Answer: "
)


class Corpus(Section):
    """The documents."""

    paths: list[Text] = setting(
        ...,
        "Files, folders and globs, relative to this file: PDF, .txt, .md, .html, and JSON or JSONL files of documents "
        "(LlamaIndex, SQuAD, or rows with a text). A folder is read with everything below it.",
        origin="required",
        min_length=1,
    )
    unreadable: Literal["fail", "skip"] = setting(
        "fail",
        "What to do with a document that gives no text (scanned, encrypted, truncated): stop and name it, or go on "
        "without it and name it in the report.",
        origin="losing a document silently would falsify every number that follows",
    )


class Chunking(Section):
    """How documents are cut."""

    size_tokens: int = setting(
        254,
        "Size of a chunk.",
        unit="the embedder's tokens",
        origin="all-MiniLM-L6-v2 reads 256 tokens, two of which mark the ends",
        ge=16,
    )
    overlap_tokens: int = setting(
        32, "What two neighbouring chunks share.", unit="the embedder's tokens", origin="one or two sentences", ge=0
    )

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Chunking:
        if self.overlap_tokens >= self.size_tokens:
            raise ValueError(f"overlap_tokens ({self.overlap_tokens}) must be below size_tokens ({self.size_tokens})")
        return self


class Questions(Section):
    """Where the question/answer pairs come from."""

    source: Literal["file", "generate"] = setting(
        "generate", "Read them from a file, or have a model write them.", origin="needs nothing"
    )
    path: str | None = setting(
        None,
        "The file, relative to this one: JSONL with question and answer, LlamaIndex QueryResponseDataset or "
        "LabelledRagDataset JSON, or SQuAD JSON.",
        origin="none; source: file needs one",
    )
    limit: int | None = setting(
        None,
        "Take at most so many, drawn with the seed and spread over the documents.",
        unit="questions",
        origin="all",
        ge=2,
    )
    per_chunk: int = setting(
        2,
        "How many to write for a chunk, with source: generate.",
        unit="questions",
        origin="as in LlamaIndex's RA-DIT notebook",
        ge=1,
    )
    writing: Literal["auto", "sentences", "pairs"] = setting(
        "auto",
        "sentences: a sentence of the documents is the answer, and the model writes its question; what small models "
        "can do. pairs: the model reads a chunk and writes question and answer; for large ones. auto: pairs with "
        "provider openai, else sentences.",
        origin="a small model's pairs are junk",
    )
    check: Literal["overlap", "call", "none"] = setting(
        "overlap",
        "With pairs, how each is held against its chunk. overlap: most of the answer's words stand there; call: the "
        "model is asked, which costs a call; none: not at all.",
        origin="costs nothing",
    )
    max_similarity: float = setting(
        0.95,
        "With pairs: a question nearer than this to an earlier one is a repeat, and dropped.",
        unit="cosine by the embedder",
        origin="rewordings of one question are above it",
        gt=0,
        le=1,
    )
    unanswerable: str | None = setting(
        None,
        "The answer that is taught, and expected, where the file says that a question has none (SQuAD 2's "
        "is_impossible). null: such questions are dropped and counted.",
        origin="most files have none",
        min_length=1,
    )
    max_answer_words: int = setting(
        400,
        "A pair with a longer answer is dropped and named.",
        unit="words",
        origin="longer than any answer in the sets we tried",
        ge=1,
    )

    @model_validator(mode="after")
    def _path_goes_with_file(self) -> Questions:
        if self.source == "file" and not self.path:
            raise ValueError("source: file needs a path")
        if self.source == "generate" and self.path:
            raise ValueError("a path is given, but source is generate; say source: file to read it")
        if self.source == "generate" and self.unanswerable is not None:
            raise ValueError("unanswerable goes with source: file; what a model writes from a chunk is answered there")
        return self


class SplitSettings(Section):
    """Which questions train and which evaluate."""

    train_share: float = setting(
        0.7,
        "Share of the questions that train; the rest evaluate.",
        unit="share",
        origin="as in LlamaIndex's RA-DIT notebook",
        gt=0,
        lt=1,
    )
    by: Literal["chunk", "document"] = setting(
        "chunk",
        "What may not stand on both sides. With one document only chunk is possible.",
        origin="a split by question leaks",
    )


def system_message(system_prompt: str, topic: str | None) -> str:
    """The system prompt with what the documents are about."""
    about = f"The documents are about {topic}." if topic else ""
    return " ".join(part for part in (system_prompt, about) if part)


class Retrieval(Section):
    """How a question gets its context; the same for training and for every arm."""

    k: int = setting(3, "Chunks given to the model.", unit="chunks", origin="RA-DIT, section 3.1", ge=1)
    context: Literal["joined", "separate", "ensemble"] = setting(
        "joined",
        "joined: all k chunks in one prompt (as in LlamaIndex's RA-DIT notebook). separate: one prompt per chunk, and"
        " the answer with the most retrieval weight among the k (as in the RA-DIT paper). ensemble: one prompt per "
        "chunk, and their next-token probabilities mixed by that weight at every step (as in REPLUG). Training has "
        "one example per chunk in both.",
        origin="one prompt instead of k",
    )
    temperature: float = setting(
        0.05,
        "t of the weights softmax(cosine / t) with which separate votes and ensemble mixes.",
        origin="cosines of good chunks lie within 0.3",
        gt=0,
    )
    system_prompt: str = setting(
        "You are a helpful assistant that answers questions from the given documents.",
        "The system message that every arm gets.",
        origin="the same for all arms, or the comparison is unfair",
    )
    topic: str | None = setting(
        None,
        "What the documents are about, said at the end of the system prompt to every arm and in every training "
        "example.",
        origin="nothing is said",
    )
    template: str = setting(
        NOTEBOOK_TEMPLATE,
        "The user message; must hold {context} and {question}.",
        origin="LlamaIndex's question-answering prompt, as in its RA-DIT notebook",
    )
    closed_book_template: str = setting(
        "Answer the query.\nQuery: {question}\nAnswer: ",
        "The user message without a context; must hold {question}.",
        origin="the template without its context",
    )

    @property
    def system_message(self) -> str:
        """The system prompt with its topic: what every arm is told."""
        return system_message(self.system_prompt, self.topic)

    @field_validator("template")
    @classmethod
    def _template_has_its_fields(cls, value: str) -> str:
        missing = [name for name in ("{context}", "{question}") if name not in value]
        if missing:
            raise ValueError(f"the template lacks {' and '.join(missing)}")
        return value

    @field_validator("closed_book_template")
    @classmethod
    def _closed_template_has_its_field(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("the template lacks {question}")
        return value


class Answer(Section):
    """How the arms answer; the same for every arm."""

    max_new_tokens: int = setting(128, "Longest answer.", unit="the LM's tokens", origin="about 95 words", ge=1)
    batch_size: int = setting(
        8,
        "Prompts that a local model reads in one batch; up to four batches are answered together, while memory allows.",
        unit="prompts",
        origin="on 2 cores more of them are not read faster",
        ge=1,
    )
    temperature: float = setting(0.0, "Of the sampling; 0 takes the most likely token.", origin="repeatable", ge=0)
    few_shot_examples: int = setting(
        3,
        "Training pairs in the few_shot arm's prompt.",
        unit="pairs",
        origin="enough to show the style of an answer",
        ge=1,
    )


class Evaluate(Section):
    """What is measured."""

    arms: list[ArmName] = setting(
        ["closed_book", "base", "few_shot", "lm", "retriever", "dual"],
        "closed_book: base LM without retrieval; base: base LM with retrieval; few_shot: base with training pairs in "
        "the prompt; lm: tuned LM with retrieval; retriever: base LM with the tuned retriever; dual: both tuned; "
        "lm_closed_book: tuned LM without retrieval. Where they are not named, retriever and dual are left out if a "
        "service has the models that they need.",
        origin="few_shot and closed_book show what a gain is made of",
        min_length=1,
    )
    metrics: list[MetricName] = setting(
        ["exact_match", "token_f1", "rouge_l", "semantic_similarity", "answer_nats_per_token", "recall_at_k", "mrr"],
        "exact_match, token_f1: with SQuAD's normalisation; rouge_l; semantic_similarity: cosine by the embedder; "
        "answer_nats_per_token: loss of the reference answer; recall_at_k, mrr: of the retriever. By the judge: "
        "correctness (1 to 5, against the reference), faithfulness (does the context support the answer; 0 or 1), "
        "relevancy (do answer and context fit the question; 0 or 1), preference (lm against base, in both orders: 1, "
        "0.5 for a tie, 0).",
        origin="all that needs no judge",
        min_length=1,
    )
    judge_repeats: int = setting(
        20,
        "Judgements of correctness asked a second time, to tell how far the judge agrees with itself.",
        unit="answers",
        origin="enough to see an unsteady judge",
        ge=0,
    )
    judge_max_tokens: int = setting(
        300, "Longest judgement.", unit="the judge's tokens", origin="a score and a few sentences", ge=16
    )
    recall_at: list[Count] = setting(
        [1, 5], "The k of recall_at_k, beside retrieval.k.", unit="chunks", origin="common", min_length=1
    )
    train_sample: int = setting(
        16, "Training questions answered too, to show over-fitting.", unit="questions", origin="a sanity check", ge=0
    )
    bootstrap_samples: int = setting(
        10_000, "Resamples behind each 95 % interval.", unit="samples", origin="interval ends stable to 0.005", ge=100
    )

    @field_validator("arms", "metrics", "recall_at")
    @classmethod
    def _no_repeats(cls, value: list[Any]) -> list[Any]:
        repeated = sorted({str(item) for item in value if value.count(item) > 1})
        if repeated:
            raise ValueError(f"named twice: {', '.join(repeated)}")
        return value


class Config(Section):
    """One run of the pipeline."""

    name: RunName = setting(..., "The run's name, under which its results are kept.", origin="required")
    seed: int = setting(
        7, "Decides the split, the order of training, sampling and the bootstrap.", origin="any fixed number", ge=0
    )
    store: Text = setting(
        ".radit",
        "Where artifacts and runs are kept: a folder, relative to the working folder, or s3://bucket/prefix.",
        origin="beside your work",
    )
    corpus: Corpus = Field(description="The documents.")
    chunking: Chunking = section(Chunking, "How documents are cut.")
    models: Models = section(Models, "Which models do the work.")
    questions: Questions = section(Questions, "Where the question/answer pairs come from.")
    split: SplitSettings = section(SplitSettings, "Which questions train and which evaluate.")
    retrieval: Retrieval = section(
        Retrieval, "How a question gets its context; the same for training and for every arm."
    )
    finetune_lm: FinetuneLM = section(FinetuneLM, "The LM half of RA-DIT.")
    finetune_retriever: FinetuneRetriever = section(FinetuneRetriever, "The retriever half of RA-DIT: LSR.")
    answer: Answer = section(Answer, "How the arms answer; the same for every arm.")
    evaluate: Evaluate = section(Evaluate, "What is measured.")
    benchmark: Benchmark = section(Benchmark, "How the latency of queries is measured.")
    spending: Spending = section(Spending, "What calls to paid services may cost; in no stage's key.")
    kubernetes: Kubernetes = section(Kubernetes, "How the stages run as Jobs, with --executor kubernetes.")

    @field_validator("evaluate")
    @classmethod
    def _metrics_have_what_they_need(cls, value: Evaluate, info: ValidationInfo) -> Evaluate:
        models = info.data.get("models")  # absent when it has errors of its own
        judged = [name for name in value.metrics if name in JUDGED_METRICS]
        if judged and models is not None and models.judge is None:
            raise ValueError(
                f"metrics names {', '.join(judged)}, but models.judge is null; configure a judge or drop the metric"
            )
        if "preference" in value.metrics and not {"lm", "base"} <= set(value.arms):
            raise ValueError("the metric preference compares the arms lm and base, but arms does not name both")
        return value

    @field_validator("finetune_lm")
    @classmethod
    def _engine_fits_the_model(cls, value: FinetuneLM, info: ValidationInfo) -> FinetuneLM:
        models = info.data.get("models")
        provider = models.lm.provider if models is not None else None
        if value.engine == "openai" and provider not in (None, "openai"):
            raise ValueError("engine: openai tunes a model of a service, but models.lm has another provider")
        return value

    @field_validator("evaluate")
    @classmethod
    def _a_tuned_retriever_needs_weights(cls, value: Evaluate, info: ValidationInfo) -> Evaluate:
        models = info.data.get("models")
        tuned = [arm for arm in value.arms if arm in RETRIEVER_ARMS]
        missing = _missing_for_lsr(models) if models is not None else None
        if not tuned or missing is None:
            return value
        if "arms" not in value.model_fields_set:
            return value.model_copy(update={"arms": [arm for arm in value.arms if arm not in RETRIEVER_ARMS]})
        raise ValueError(
            f"the arms {', '.join(tuned)} need a tuned retriever, but {missing}; leave these arms out of evaluate.arms"
        )

    @field_validator("evaluate")
    @classmethod
    def _tuned_arms_need_an_engine(cls, value: Evaluate, info: ValidationInfo) -> Evaluate:
        models, tuning = info.data.get("models"), info.data.get("finetune_lm")
        tuned = sorted(TUNED_ARMS & set(value.arms))
        if models is None or tuning is None or not tuned:
            return value
        if models.lm.provider == "openai" and tuning.engine == "local":
            raise ValueError(
                f"the arms {', '.join(tuned)} need a tuned model, and the weights of models.lm are not here: set "
                "finetune_lm.engine to openai, or leave these arms out of evaluate.arms"
            )
        return value

    @field_validator("retrieval")
    @classmethod
    def _an_ensemble_needs_logits(cls, value: Retrieval, info: ValidationInfo) -> Retrieval:
        models = info.data.get("models")
        if value.context == "ensemble" and models is not None and models.lm.provider == "openai":
            raise ValueError(
                "context: ensemble mixes the probabilities of all next tokens, and the service of models.lm does not "
                "tell them: take joined or separate"
            )
        return value


def _missing_for_lsr(models: Models) -> str | None:
    """What the retriever half cannot do without, and these models do not have; None where nothing is missing."""
    if models.embedder.provider == "openai":
        return "the weights of models.embedder are not here"
    if models.lm.provider == "openai" and not models.lm.can_score:
        return "it learns from how likely models.lm finds an answer, which its service does not tell (can_score: false)"
    return None


def question_file(config: Config, folder: Path) -> Path | None:
    """The question file's path, resolved against the folder of the configuration file."""
    return folder / Path(config.questions.path).expanduser() if config.questions.path else None
