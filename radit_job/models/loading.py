"""Opening models by provider and name. Weights come as safetensors only, and no code of a model's own is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from radit_job.errors import ConfigError, ServiceError
from radit_job.models.conversion import packaged_folder
from radit_job.models.identity import MODEL_FILES, known_commit, local_folder, model_files

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM
    from radit_job.models.sentence_encoder import HuggingFaceEmbedder


def model_folder(provider: str, name: str, revision: str | None = None) -> Path:
    """The local folder of a model, converted (packaged) or downloaded (hub id) if it must be.

    ConfigError for a provider that does not exist, InputError for a folder that is not a model, ServiceError if the
    hub is needed and does not answer.
    """
    if provider == "packaged":
        return packaged_folder(name)
    if provider != "huggingface":
        raise ConfigError(f"unknown model provider {provider!r}", todo="use packaged or huggingface")
    folder = local_folder(name) or _hub_snapshot(name, revision)
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


def _hub_snapshot(name: str, revision: str | None) -> Path:
    """The model in the local hub cache.

    What is not there yet is asked for by branch or tag: the cache keeps that too, and the next time needs no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = known_commit(name, revision) or revision  # None is the main branch
    try:
        return Path(snapshot_download(name, revision=wanted, allow_patterns=list(MODEL_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ServiceError(
            f"the model {name} could not be fetched from the hub", todo="try again, or give a folder that holds it"
        ) from error
