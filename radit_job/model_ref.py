"""Which model, and how it is reached: what the configuration says of it, as plain values for whoever opens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Provider = Literal["packaged", "huggingface", "openai"]
OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One model; the fields behind `dtype` are for provider openai alone. Meanings and units: `radit config`."""

    provider: Provider
    name: str
    revision: str | None = None
    dtype: str = "auto"
    base_url: str = OPENAI_URL
    api_key_env: str | None = None
    tokenizer: str | None = None
    context_tokens: int | None = None
    can_score: bool = False
    concurrency: int = 8
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    timeout_s: float = 120.0
    patience_s: float = 600.0


def key_variable(ref: ModelRef) -> str | None:
    """The environment variable that holds the key: OpenAI's goes to OpenAI alone, unless the user says otherwise."""
    if ref.api_key_env is not None:
        return ref.api_key_env
    return "OPENAI_API_KEY" if ref.base_url == OPENAI_URL else None
