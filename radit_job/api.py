"""A finished run as LlamaIndex objects and plain rows, for going on in Python.

from radit_job import open_run
run = open_run(".radit", "quickstart")
run.query_engine("lm").query("What does LSR train?")
"""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radit_job.config.loading import load_config
from radit_job.config.schema import Config, Model
from radit_job.errors import ConfigError, CorruptArtifact
from radit_job.models.llamaindex import as_llm, as_retriever
from radit_job.models.loading import open_embedder, open_generator
from radit_job.pipeline.graph import producer_of
from radit_job.pipeline.runs import load_results, require_run, run_file
from radit_job.records import Chunk, read_rows
from radit_job.store import open_store
from radit_job.store.artifacts import fetch, find

if TYPE_CHECKING:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.llms import LLM
    from llama_index.core.retrievers import BaseRetriever

ARMS = ("closed_book", "base", "lm")


class Run:
    """One run of a store; its artifacts are verified when they are first used."""

    def __init__(self, store: str, run: str) -> None:
        self._store = open_store(store)
        self._record = require_run(self._store, run)
        self._fetched = tempfile.TemporaryDirectory(prefix="radit-")

    @cached_property
    def config(self) -> Config:
        """The configuration that the run was made with."""
        text = self._store.read(run_file(self._record.run, "config.yaml"))
        if text is None:
            raise CorruptArtifact("the run has no config.yaml", where=self._store.url)
        path = Path(self._fetched.name, "config.yaml")
        path.write_bytes(text)
        return load_config(path).config

    def results(self) -> list[dict[str, Any]]:
        """The rows of results.json: arm, split, metric, mean, low, high, n, n_failed."""
        rows: list[dict[str, Any]] = load_results(self._store, self._record.run)["rows"]
        return rows

    def pairs(self) -> list[dict[str, Any]]:
        """The paired comparisons: arm, against, split, metric, delta, low, high, n."""
        pairs: list[dict[str, Any]] = load_results(self._store, self._record.run)["pairs"]
        return pairs

    def artifact(self, name: str) -> Path:
        """The verified folder of an artifact of this run, such as `chunks` or `lm`; do not change what is in it."""
        stage = producer_of(name)
        record = self._record.stages.get(stage)
        manifest = find(self._store, stage, record.key) if record and record.key else None
        if manifest is None:
            raise ConfigError(
                f"run {self._record.run!r} has no {name}: its stage {stage} has not ended", where=self._store.url
            )
        folder = Path(self._fetched.name, name)
        folder.mkdir(exist_ok=True)
        return fetch(self._store, manifest, name, folder)

    def retriever(self, arm: str = "lm") -> BaseRetriever:
        """The arm's retriever over the run's chunks, with the run's k."""
        _check_arm(arm)
        chunks = list(read_rows(self.artifact("chunks") / "chunks.jsonl", Chunk))
        vectors = np.load(self.artifact("embeddings") / "vectors.npy", mmap_mode="r", allow_pickle=False)
        return as_retriever(chunks, vectors, self._embedder, self.config.retrieval.k)

    def llm(self, arm: str = "lm") -> LLM:
        """The arm's language model, with its chat template and the run's system prompt."""
        _check_arm(arm)
        model = self.config.models.lm
        if arm == "lm":
            model = Model(provider="huggingface", name=str(self.artifact("lm") / "merged"), dtype=model.dtype)
        generator = open_generator(model.provider, model.name, model.revision, model.dtype)
        return as_llm(
            generator,
            max_new_tokens=self.config.answer.max_new_tokens,
            system_prompt=self.config.retrieval.system_prompt,
        )

    def query_engine(self, arm: str = "lm") -> BaseQueryEngine:
        """Retriever, prompt and model of an arm together: `.query("...")` gives a Response with its source nodes."""
        from llama_index.core import PromptTemplate
        from llama_index.core.query_engine import RetrieverQueryEngine
        from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer

        retrieval = self.config.retrieval
        if arm == "closed_book":
            raise ConfigError(
                "closed_book reads no documents, so it has no query engine",
                todo="Use open_run(...).llm('closed_book').",
            )
        template = retrieval.template.replace("{context}", "{context_str}").replace("{question}", "{query_str}")
        synthesizer = get_response_synthesizer(
            llm=self.llm(arm),
            text_qa_template=PromptTemplate(template),
            response_mode=ResponseMode.SIMPLE_SUMMARIZE,  # all chunks in one prompt, one call
        )
        return RetrieverQueryEngine(self.retriever(arm), synthesizer)

    @cached_property
    def _embedder(self) -> Any:
        model = self.config.models.embedder
        return open_embedder(model.provider, model.name, model.revision, model.dtype)


def open_run(store: str, run: str) -> Run:
    """Open a run of a store; ConfigError naming the runs there are if there is no such one."""
    return Run(store, run)


def _check_arm(arm: str) -> None:
    if arm not in ARMS:
        raise ConfigError(f"there is no arm {arm!r} to open", todo=f"The arms are: {', '.join(ARMS)}.")
