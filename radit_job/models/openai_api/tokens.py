"""How many tokens a served model will count: by the tokenizer that the user named, else by OpenAI's own.

OpenAI's vocabularies are read from the copy that llama-index-core carries, so that nothing is downloaded. For a model
that is neither OpenAI's nor has a tokenizer here the count is an estimate.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

from radit_job.errors import InputError, ServiceError
from radit_job.model_ref import ModelRef
from radit_job.models.base import Conversation
from radit_job.models.conversion import packaged_folder
from radit_job.models.identity import known_commit, local_folder
from radit_job.models.packaged import PACKAGED

if TYPE_CHECKING:
    from radit_job.models.chat import ChatFormat

TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
# https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
TOKENS_PER_MESSAGE = 3
TOKENS_BEFORE_ANSWER = 3
CARRIED = {  # the copy's file names: sha1 of the addresses that tiktoken would fetch
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
ESTIMATED_WITH = "o200k_base"
ESTIMATE_MARGIN = 2.5  # smaller vocabularies take more: SmolLM2's 1.1 times (English), 1.9 (German), 2.4 (Chinese)
_environment = threading.Lock()


class ServedTokens:
    """Counts for one served model; the tokenizer is loaded when first asked."""

    def __init__(self, ref: ModelRef) -> None:
        self._ref = ref
        self._lock = threading.Lock()

    @property
    def is_exact(self) -> bool:
        """Whether the counts are the server's own, or nearly; else they are an estimate."""
        return self._ref.tokenizer is not None or encoding_name(self._ref.name) is not None

    @cached_property
    def chat(self) -> ChatFormat | None:
        """The chat template of the tokenizer that the user named."""
        if self._ref.tokenizer is None:
            return None
        from transformers import AutoTokenizer

        from radit_job.models.chat import ChatFormat

        folder = tokenizer_folder(self._ref.tokenizer)
        try:
            return ChatFormat(AutoTokenizer.from_pretrained(folder, local_files_only=True))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"this tokenizer cannot be opened: {reason}", where=str(folder)) from error

    @cached_property
    def _count(self) -> Callable[[str], int]:
        return openai_counter(self._ref.name)

    def n_text(self, text: str) -> int:
        """A text's tokens, nothing added."""
        with self._lock:
            return self._count(text) if self.chat is None else len(self.chat.text_ids(text))

    def n_prompt(self, conversation: Conversation) -> int:
        """A conversation's tokens as a prompt, template included."""
        with self._lock:
            if self.chat is not None:
                return len(self.chat.prompt_ids(conversation))
            texts = sum(self._count(message.role) + self._count(message.content) for message in conversation)
            return texts + TOKENS_PER_MESSAGE * len(conversation) + TOKENS_BEFORE_ANSWER

    @property
    def margin(self) -> float:
        """How many times our count the server's may be: above 1 where ours is an estimate."""
        return 1.0 if self.is_exact else ESTIMATE_MARGIN


def encoding_name(model: str) -> str | None:
    """The tiktoken encoding of one of OpenAI's models, `ft:` ones included; None for a model that is not OpenAI's."""
    import tiktoken

    base = model.split(":")[1] if model.startswith("ft:") and ":" in model[3:] else model.removeprefix("ft:")
    try:
        return tiktoken.encoding_name_for_model(base)
    except KeyError:
        return None


def openai_counter(model: str) -> Callable[[str], int]:
    """The tokens of a text by tiktoken, special tokens read as plain text."""
    import tiktoken

    name = encoding_name(model)
    name = name if name in CARRIED else ESTIMATED_WITH
    with _environment:
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        try:
            if (folder := _carried_folder()) is not None and (folder / CARRIED[name]).is_file():
                os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
            encoding = tiktoken.get_encoding(name)
        except OSError as error:
            raise ServiceError(
                f"OpenAI's vocabulary {name} is not here and could not be fetched",
                todo="Install llama-index-core, which carries it, or set the model's tokenizer.",
            ) from error
        finally:
            if before is None:
                os.environ.pop("TIKTOKEN_CACHE_DIR", None)
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    return lambda text: len(encoding.encode_ordinary(text))


def _carried_folder() -> Path | None:
    spec = importlib.util.find_spec("llama_index")  # found, not imported: that takes seconds
    places = [Path(place) / "core" / "_static" / "tiktoken_cache" for place in _locations(spec)]
    return next((place for place in places if place.is_dir()), None)


def _locations(spec: ModuleSpec | None) -> Iterable[str]:
    return (spec.submodule_search_locations if spec else None) or ()


def tokenizer_folder(name: str) -> Path:
    """The folder of a tokenizer: a packaged model's name, a folder, or a hub id (fetched without the weights)."""
    if name in PACKAGED:
        return packaged_folder(name)
    if (folder := local_folder(name)) is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(name, revision=known_commit(name), allow_patterns=list(TOKENIZER_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ServiceError(
            f"the tokenizer {name} could not be fetched from the hub", todo="Try again, or give a folder that holds it."
        ) from error
    return Path(fetched)
