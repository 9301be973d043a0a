"""Opening models by provider and name. Weights come as safetensors only, and no code of a model's own is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from radit_job.errors import ConfigError, InputError, ServiceError
from radit_job.models.conversion import packaged_folder
from radit_job.models.identity import MODEL_FILES, hub_commit, local_folder, model_files

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM
    from radit_job.models.sentence_encoder import HuggingFaceEmbedder

Tokenize = Callable[[str], list[int]]


def model_folder(provider: str, name: str, revision: str | None = None) -> Path:
    """The local folder of a model, converted (packaged) or downloaded (hub id) if it must be.

    ConfigError for a provider that has no folder, InputError for a folder that is not a model, ServiceError if the
    hub is needed and does not answer.
    """
    if provider == "packaged":
        return packaged_folder(name)
    if provider == "openai":
        raise ConfigError(
            f"provider: openai (model {name}) is not supported in this version", todo="use packaged or huggingface"
        )
    if provider != "huggingface":
        raise ConfigError(f"unknown model provider {provider!r}", todo="use packaged or huggingface")
    folder = local_folder(name) or _hub_snapshot(name, hub_commit(name, revision))
    model_files(folder)
    return folder


def open_generator(
    provider: str, name: str, revision: str | None = None, dtype: str = "auto", n_threads: int | None = None
) -> HuggingFaceLM:
    """A language model that answers and scores; `dtype` is auto, float32 or bfloat16."""
    from radit_job.models.huggingface import HuggingFaceLM

    return HuggingFaceLM.open(model_folder(provider, name, revision), dtype=dtype, n_threads=n_threads)


def open_embedder(provider: str, name: str, revision: str | None = None, dtype: str = "auto") -> HuggingFaceEmbedder:
    """A text encoder; its vectors are float32 whatever its weights are."""
    from radit_job.models.sentence_encoder import HuggingFaceEmbedder

    return HuggingFaceEmbedder.open(model_folder(provider, name, revision), dtype=dtype)


def open_tokenizer(provider: str, name: str, revision: str | None = None) -> Tokenize:
    """The model's tokenizer as a function from a text to its token ids: whole, nothing added. Imports no torch."""
    from tokenizers import Tokenizer

    file = model_folder(provider, name, revision) / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            "this model has no fast tokenizer",
            where=str(file),
            todo="save it once with AutoTokenizer's save_pretrained",
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()  # sentence-transformers' files ask for it, and a measure must not be cut
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _hub_snapshot(name: str, commit: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(MODEL_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ServiceError(
            f"the model {name} could not be fetched from the hub", todo="try again, or give a folder that holds it"
        ) from error
