"""The part of the configuration that says which models do the work, and how they are reached."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from radit_job.config.fields import Section, setting
from radit_job.model_ref import OPENAI_URL, ModelRef


class Model(Section):
    """One model: where it comes from and how it is loaded."""

    provider: Literal["packaged", "huggingface", "openai"] = setting(
        "packaged",
        "packaged: a small model that a Python package carries, for trying without a network; huggingface: a folder "
        "(relative to the working folder) or a hub id; openai: OpenAI, or any server that speaks its protocol (vLLM, "
        "TGI, SGLang, Ollama, llama.cpp).",
        origin="works from a fresh install",
    )
    name: str = setting(
        ...,
        "The packaged model's name, the folder, the hub id, or the name that the server knows the model by.",
        origin="required",
        min_length=1,
    )
    revision: str | None = setting(
        None,
        "Hub revision; pin a commit, so that a model changed upstream is a new model here.",
        origin="the hub's main branch",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "Weights and arithmetic. auto takes bfloat16 only where the chip has matrix units for it "
        "(measured, not assumed).",
        origin="bfloat16 without matrix units is several times slower than float32",
    )
    base_url: str = setting(
        OPENAI_URL, "provider openai: the server's address, up to and with its /v1.", origin="OpenAI's own"
    )
    api_key_env: str | None = setting(
        None,
        "provider openai: the environment variable that holds the key; the key itself never stands in a file. null: "
        "OPENAI_API_KEY for OpenAI's own address, and no key for another server's.",
        origin="OpenAI's key is nobody else's business",
        changes_results=False,
    )
    tokenizer: str | None = setting(
        None,
        "provider openai: whose tokenizer measures prompts: a packaged model's name, a folder or a hub id.",
        origin="OpenAI's own for its models; of another model only an estimate",
    )
    context_tokens: int | None = setting(
        None,
        "provider openai: what the model reads at most. With it, chunks that do not fit are left out, as for a local "
        "model; without it, the server refuses what is too long.",
        unit="tokens",
        origin="unknown",
        ge=64,
    )
    can_score: bool = setting(
        False,
        "provider openai: the server's /completions tells the log-probabilities of a prompt's tokens (echo), as "
        "vLLM's and SGLang's do, so that answer_nats_per_token can be measured and the retriever can learn (arms "
        "retriever and dual: one call for each candidate chunk of each training question); needs a tokenizer with a "
        "chat template.",
        origin="OpenAI's does not",
    )
    concurrency: int = setting(
        8, "provider openai: calls at once.", unit="calls", origin="within every paid tier", changes_results=False, ge=1
    )
    requests_per_minute: int | None = setting(
        None,
        "provider openai: no more calls than this.",
        unit="calls a minute",
        origin="as the server's headers and its 429s tell",
        changes_results=False,
        ge=1,
    )
    tokens_per_minute: int | None = setting(
        None,
        "provider openai: no more tokens than this, prompts and answers together.",
        unit="tokens a minute",
        origin="as the server's headers and its 429s tell",
        changes_results=False,
        ge=1,
    )
    timeout_s: float = setting(
        120.0,
        "provider openai: how long one call may take.",
        unit="seconds",
        origin="a long answer by a busy server",
        changes_results=False,
        gt=0,
    )
    patience_s: float = setting(
        600.0,
        "provider openai: how long the server may fail to give any answer before the stage gives up; what it gave "
        "is kept.",
        unit="seconds",
        origin="outages of ten minutes pass",
        changes_results=False,
        gt=0,
    )

    @model_validator(mode="after")
    def _fields_fit_the_provider(self) -> Model:
        if self.revision is not None and self.provider != "huggingface":
            raise ValueError("a revision goes with provider: huggingface")
        if self.provider == "openai" and self.dtype != "auto":
            raise ValueError("dtype is the server's own matter with provider: openai")
        if self.can_score and self.tokenizer is None:
            raise ValueError("can_score needs a tokenizer")
        fields = type(self).model_fields
        foreign = [name for name in OPENAI_FIELDS if getattr(self, name) != fields[name].default]
        if foreign and self.provider != "openai":
            raise ValueError(f"{', '.join(foreign)}: only with provider: openai")
        return self

    @field_validator("api_key_env")
    @classmethod
    def _a_name_and_no_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("the name of an environment variable stands here, and never the key itself")
        return value

    @field_validator("base_url")
    @classmethod
    def _address_without_secrets(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError("an address is wanted, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("no user, password or query here: the key is read from the variable named by api_key_env")
        return value.rstrip("/")

    def ref(self) -> ModelRef:
        """The model as plain values, for those who know no configuration."""
        return ModelRef(**self.model_dump())


OPENAI_FIELDS = (
    "base_url",
    "api_key_env",
    "tokenizer",
    "context_tokens",
    "can_score",
    "concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "timeout_s",
    "patience_s",
)


EMBEDDER = "all-minilm-l6-v2"
LM = "smollm2-135m-instruct"


class Models(Section):
    """Which models do the work."""

    embedder: Model = Field(
        default_factory=lambda: Model(name=EMBEDDER),
        description="The retriever's encoder; also measures semantic_similarity.",
    )
    lm: Model = Field(
        default_factory=lambda: Model(name=LM),
        description="The language model that is tuned and that answers.",
    )
    question_writer: Model = Field(
        default_factory=lambda: Model(name=LM),
        description="Writes question/answer pairs when questions.source is generate.",
    )
    judge: Model | None = Field(
        default=None,
        description="Judges the answers; null: no judge, and no metric that needs one. A very small model cannot "
        "judge.",
    )

    @field_validator("embedder", "lm", "question_writer", mode="before")
    @classmethod
    def _packaged_models_have_a_default_name(cls, value: Any, info: ValidationInfo) -> Any:
        """`lm: {dtype: float32}` changes one field of the default model, and does not ask for its name."""
        if isinstance(value, dict) and value.get("provider", "packaged") == "packaged":
            return {"name": EMBEDDER if info.field_name == "embedder" else LM, **value}
        return value
