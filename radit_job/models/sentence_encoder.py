"""Text encoders of sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from radit_job import observe
from radit_job.errors import InputError
from radit_job.models import precision
from radit_job.models.base import OnDone, Vectors

# What a batch computes should stay in a CPU's caches: 8 texts of 230 tokens take 53 ms each on two cores, 32 take 61.
CPU_BATCH_TOKENS = 2048


class HuggingFaceEmbedder:
    """An Embedder; says once how many texts were longer than what the encoder reads."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self.n_truncated = 0  # texts whose end the encoder did not see

    @classmethod
    def open(cls, folder: Path, *, dtype: str = "auto") -> HuggingFaceEmbedder:
        """Load a sentence-transformers or a plain encoder folder (then mean-pooled); InputError if it is neither."""
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            model = SentenceTransformer(
                str(folder),
                device=precision.device().type,
                local_files_only=True,
                model_kwargs={"dtype": precision.choose_dtype(dtype), "use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"this folder cannot be opened as a text encoder: {reason}",
                where=os.fspath(folder),
                todo="SentenceTransformer(folder) must be able to open it",
            ) from error
        return cls(model)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.model.get_embedding_dimension())

    def embed_documents(self, texts: Sequence[str], *, batch_size: int = 32, on_done: OnDone | None = None) -> Vectors:
        """See `Embedder`."""
        return self._embed(self.model.encode_document, texts, batch_size, on_done)

    def embed_queries(self, texts: Sequence[str], *, batch_size: int = 32, on_done: OnDone | None = None) -> Vectors:
        """See `Embedder`."""
        return self._embed(self.model.encode_query, texts, batch_size, on_done)

    def _embed(
        self, encode: Callable[..., Any], texts: Sequence[str], batch_size: int, on_done: OnDone | None
    ) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        lengths = self._lengths(texts)
        order = sorted(range(len(texts)), key=lambda row: (-lengths[row], row))
        limit = self.model.max_seq_length or CPU_BATCH_TOKENS
        start = 0
        while start < len(order):
            n_texts = batch_size
            if self.model.device.type == "cpu":
                n_texts = max(1, min(batch_size, CPU_BATCH_TOKENS // max(1, min(lengths[order[start]], limit))))
            rows = order[start : start + n_texts]
            start += n_texts
            found = encode([texts[row] for row in rows], batch_size=n_texts, show_progress_bar=False)
            vectors[rows] = _unit_length(np.asarray(found, dtype=np.float32))
            if on_done:
                on_done(len(rows))
        return vectors

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with the encoder's special ones; warns the first time that some are too long."""
        limit = self.model.max_seq_length
        tokenizer = self.model.tokenizer
        if not texts:
            return []
        if callable(tokenizer):
            lengths = list(map(len, tokenizer(list(texts), truncation=False, padding=False, verbose=False).input_ids))
        else:  # a static embedding's: one of the library tokenizers
            lengths = list(map(len, tokenizer.encode_batch(list(texts))))
        n_too_long = sum(length > limit for length in lengths) if limit else 0
        if n_too_long and not self.n_truncated:
            observe.warn(
                f"{n_too_long} of {len(texts)} texts exceed the encoder's {limit} tokens: their ends do not count",
                n_truncated=n_too_long,
                n_texts=len(texts),
            )
        self.n_truncated += n_too_long
        return lengths


def _unit_length(vectors: Vectors) -> Vectors:
    """Rows of length 1 in float32: what a bfloat16 encoder normalised itself is off by up to 0.4 %."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
