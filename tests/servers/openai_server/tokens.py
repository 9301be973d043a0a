"""Token counts, as OpenAI bills them: by the model's own vocabulary from llama-index-core's copy, no network.

cl100k_base for gpt-3.5, gpt-4 and the embedding models, o200k_base for all others, as tiktoken has it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MESSAGE_TOKENS = 3  # <|start|>role<|message|>; "How to count tokens with tiktoken", OpenAI cookbook
REPLY_TOKENS = 3  # every reply is primed with <|start|>assistant<|message|>


def encoding_name(model: str) -> str:
    """Which vocabulary a model has; that of its base, where it is fine-tuned."""
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model.removeprefix("ft:").split(":")[0])
    except KeyError:
        return "o200k_base"
    return name if name == "cl100k_base" else "o200k_base"


@functools.cache
def encoding(name: str) -> Any:
    """The vocabulary; its file is found as llama_index.core.utils.get_tokenizer finds it, without importing that."""
    import importlib.util

    import tiktoken

    spec = importlib.util.find_spec("llama_index.core")
    assert spec is not None and spec.origin is not None
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(spec.origin).parent / "_static" / "tiktoken_cache")
    try:
        return tiktoken.get_encoding(name)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def load() -> None:
    """Read both vocabularies: a second, once a process."""
    for name in ("o200k_base", "cl100k_base"):
        encoding(name)


@functools.lru_cache(maxsize=512)
def of_model(model: str) -> Any:
    """A model's vocabulary."""
    return encoding(encoding_name(model))


@functools.lru_cache(maxsize=4096)
def count(text: str, model: str = "") -> int:
    """Tokens of a text."""
    return len(of_model(model).encode(text, disallowed_special=()))


def ids(text: str, model: str = "") -> list[int]:
    """The text's token ids."""
    return list(of_model(model).encode(text, disallowed_special=()))


def text_of(token_ids: Iterable[int], model: str = "") -> str:
    """The text of token ids; broken characters at the ends are dropped."""
    return str(of_model(model).decode(list(token_ids), errors="ignore"))


def count_messages(messages: Iterable[Mapping[str, Any]], model: str) -> int:
    """Tokens of a conversation by the cookbook's rule: 3 a message, its role and content, 3 for the reply."""
    n_tokens = REPLY_TOKENS
    for message in messages:
        n_tokens += MESSAGE_TOKENS + count(str(message.get("role", "")), model) + count(content_of(message), model)
        if message.get("name"):
            n_tokens += count(str(message["name"]), model) + 1
    return n_tokens


def content_of(message: Mapping[str, Any]) -> str:
    """A message's text, which may come as a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content or ""
