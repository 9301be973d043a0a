"""Opening models by provider and name. Weights come as safetensors only, and no code of a model's own is run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from radit_job.errors import ConfigError, ServiceError
from radit_job.model_ref import ModelRef
from radit_job.models.base import AnsweringLM, Embedder, ScoringLM
from radit_job.models.conversion import packaged_folder
from radit_job.models.identity import MODEL_FILES, known_commit, local_folder, model_files
from radit_job.models.ledger import Ledger

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM


def model_folder(ref: ModelRef) -> Path:
    """The local folder of a model, converted (packaged) or downloaded (hub id) if it must be.

    ConfigError for a model that has none, InputError for a folder that is not a model, ServiceError if the hub is
    needed and does not answer.
    """
    if ref.provider == "packaged":
        return packaged_folder(ref.name)
    if ref.provider != "huggingface":
        raise ConfigError(
            f"{ref.name} is served by {ref.base_url}, so its weights are not here",
            todo="use provider packaged or huggingface",
        )
    folder = local_folder(ref.name) or _hub_snapshot(ref.name, ref.revision)
    model_files(folder)
    return folder


def open_generator(ref: ModelRef, ledger: Ledger | None = None, *, n_threads: int | None = None) -> AnsweringLM:
    """A language model that answers; what a paid one says is kept in the ledger."""
    if ref.provider == "openai":
        from radit_job.models.openai_api.lm import OpenAILM

        return OpenAILM.open(ref, ledger or Ledger())
    return open_local_lm(ref, n_threads=n_threads)


def open_scorer(ref: ModelRef, ledger: Ledger | None = None) -> ScoringLM:
    """A language model that says how likely given answers are; ConfigError for a served one that does not tell."""
    if ref.provider == "openai":
        from radit_job.models.openai_api.lm import OpenAILM

        if not ref.can_score:
            raise ConfigError(
                f"{ref.name} is served by {ref.base_url}, which does not tell how likely an answer is",
                where="models.lm",
                todo="set can_score where the server echoes log-probabilities, or use provider packaged or huggingface",
            )
        return OpenAILM.open(ref, ledger or Ledger())
    return open_local_lm(ref)


def open_local_lm(ref: ModelRef, *, n_threads: int | None = None) -> HuggingFaceLM:
    """A language model in this process, which also scores; ConfigError for one that a server has."""
    from radit_job.models.huggingface import HuggingFaceLM

    return HuggingFaceLM.open(model_folder(ref), dtype=ref.dtype, n_threads=n_threads)


def tuned_ref(lm: Path, base: ModelRef) -> ModelRef:
    """The tuned model of an `lm` artifact: its weights, or the name under which a service knows it (model.json)."""
    served = lm / "model.json"
    if served.is_file():
        return replace(base, name=str(json.loads(served.read_text(encoding="utf-8"))["name"]))
    return ModelRef("huggingface", str(lm / "merged"), dtype=base.dtype)


def tuned_retriever_ref(retriever: Path, base: ModelRef) -> ModelRef:
    """The tuned query encoder of a `retriever` artifact. Documents keep the vectors of the base encoder."""
    return ModelRef("huggingface", str(retriever), dtype=base.dtype)


def open_embedder(ref: ModelRef, ledger: Ledger | None = None) -> Embedder:
    """A text encoder; its vectors are float32 whatever its weights are. What a paid one says is kept in the ledger."""
    if ref.provider == "openai":
        from radit_job.models.openai_api.embedder import OpenAIEmbedder

        return OpenAIEmbedder.open(ref, ledger or Ledger())
    from radit_job.models.sentence_encoder import HuggingFaceEmbedder

    return HuggingFaceEmbedder.open(model_folder(ref), dtype=ref.dtype)


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
