"""The query side of a text encoder: what `encode_query` computes, with gradients, and the parameters behind it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import batch_to_device
from torch.nn import functional

from radit_job.models.base import Vectors
from radit_job.models.sentence_encoder import HuggingFaceEmbedder

PROBE = "What is this?"  # any question: it shows which parameters a question goes through


class QueryEncoder:
    """A SentenceTransformer whose query route is to be trained; everything else in it is frozen.

    It stays in evaluation mode, without dropout: a step's loss is then the function that is measured on the held-out
    questions, equal runs are equal to the bit on one thread, and a checkpoint needs no state of a random generator.
    """

    def __init__(self, embedder: HuggingFaceEmbedder, compute_dtype: torch.dtype) -> None:
        """`embedder` has float32 weights; bfloat16 as compute_dtype rounds them for each product, and no further."""
        self.embedder, self.model, self.compute_dtype = embedder, embedder.model, compute_dtype
        self.model.eval()
        self.names = self._freeze_all_but_the_query_route()

    @classmethod
    def open(cls, folder: Path, compute_dtype: torch.dtype) -> QueryEncoder:
        """Open a sentence-transformers folder; InputError as `HuggingFaceEmbedder.open` has it."""
        return cls(HuggingFaceEmbedder.open(folder, dtype="float32"), compute_dtype)

    @property
    def n_parameters(self) -> int:
        """All parameters, those of a document route included."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def n_trainable_parameters(self) -> int:
        """The parameters that are trained."""
        return sum(p.numel() for p in self.names)

    def vectors(self, questions: Sequence[str]) -> torch.Tensor:
        """[questions, dimension], rows of length 1, in float32 or better, with the gradient of the query route."""
        prompts = self.model.prompts
        name = "query" if "query" in prompts else self.model.default_prompt_name  # as encode_query chooses
        prompt = prompts[name] if name is not None else None
        features = self.model.preprocess(list(questions), prompt=prompt, task="query")
        with self._autocast():
            found = self.model(batch_to_device(features, self.model.device), task="query")["sentence_embedding"]
        return functional.normalize(found.to(torch.promote_types(found.dtype, torch.float32)), dim=1)

    def embed(self, questions: Sequence[str]) -> Vectors:
        """The same as plain numbers, many at a time: [questions, dimension] float32, rows of length 1."""
        if not questions:
            return np.zeros((0, self.embedder.dimension), dtype=np.float32)
        with self._autocast():
            return self.embedder.embed_queries(questions)

    def save(self, folder: Path) -> None:
        """Write the encoder as sentence-transformers does: safetensors, no card."""
        self.model.save(str(folder), create_model_card=False, safe_serialization=True)

    def _freeze_all_but_the_query_route(self) -> dict[torch.nn.Parameter, str]:
        """The parameters with a gradient, by name: those that a question goes through, whatever modules there are.

        Left out are a Router's document route, and what no vector depends on, such as BERT's own pooler.
        """
        self.model.requires_grad_(True)
        self.vectors([PROBE]).sum().backward()
        names = {}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is None:
                parameter.requires_grad_(False)
            else:
                names[parameter] = name
            parameter.grad = None
        return names

    def _autocast(self) -> AbstractContextManager[Any]:
        half = self.compute_dtype == torch.bfloat16
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=half)
