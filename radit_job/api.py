"""A finished run as LlamaIndex objects and plain rows, for going on in Python.

from radit_job import open_run
run = open_run(".radit", "quickstart")
run.query_engine("lm").query("What does LSR train?")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radit_job.config.loading import load_config
from radit_job.config.schema import Config
from radit_job.errors import ConfigError, CorruptArtifact
from radit_job.models.llamaindex import Asking, as_llm, as_query_engine, as_retriever
from radit_job.models.loading import open_embedder, open_generator, open_local_lm, tuned_ref, tuned_retriever_ref
from radit_job.pipeline.graph import producer_of
from radit_job.pipeline.names import run_file
from radit_job.pipeline.runs import load_results, require_run
from radit_job.rag.answering import builder_of
from radit_job.rag.prompts import Prompts
from radit_job.rag.retrieval import search
from radit_job.rag.vector_index import VectorIndex
from radit_job.rag.voting import retrieval_weights, vote
from radit_job.records import CLOSED_BOOK_ARMS, RETRIEVER_ARMS, TUNED_ARMS, Chunk, read_rows
from radit_job.store import open_store
from radit_job.store.artifacts import fetch, find

if TYPE_CHECKING:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.llms import LLM
    from llama_index.core.retrievers import BaseRetriever

    from radit_job.model_ref import ModelRef
    from radit_job.models.base import Conversation, Embedder
    from radit_job.rag.retrieval import Rows, Similarities, Vectors

# Their folders are deleted when the process ends, and not with the Run: what `artifact` returned is only a path.
_FETCHED: list[tempfile.TemporaryDirectory[str]] = []
ASKABLE_ARMS = ("closed_book", "base", "lm", "lm_closed_book", "retriever", "dual")


class Run:
    """One run of a store; its artifacts are verified when they are first used."""

    def __init__(self, store: str, run: str) -> None:
        self._store = open_store(store)
        self._record = require_run(self._store, run)
        self._fetched = tempfile.TemporaryDirectory(prefix="radit-")
        _FETCHED.append(self._fetched)
        self._folders: dict[str, Path] = {}

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
        """The verified folder of an artifact of this run, such as `chunks` or `lm`; do not change what is in it.

        It is there until the process ends.
        """
        if name in self._folders:
            return self._folders[name]
        stage = producer_of(name)
        record = self._record.stages.get(stage)
        manifest = find(self._store, stage, record.key) if record and record.key else None
        if manifest is None:
            raise ConfigError(
                f"run {self._record.run!r} has no {name}: its stage {stage} has not ended", where=self._store.url
            )
        folder = Path(self._fetched.name, name)
        self._folders[name] = fetch(self._store, manifest, name, folder)
        return folder

    def retriever(self, arm: str = "lm") -> BaseRetriever:
        """The arm's retriever over the run's chunks, with the run's k; it ranks as the pipeline does.

        The tuned one encodes the queries anew; the chunks keep the vectors of the untuned one.
        """
        self._check_arm(arm)
        if arm in CLOSED_BOOK_ARMS:
            raise ConfigError(f"{arm} reads no documents, so it has no retriever")
        chunks = list(read_rows(self.artifact("chunks") / "chunks.jsonl", Chunk))
        index = VectorIndex.open(self.artifact("embeddings"))

        def nearest(query: Vectors) -> tuple[Rows, Similarities]:
            found = search(index.vectors, query, k=self.config.retrieval.k)
            return found.rows[0], found.similarities[0]

        return as_retriever(chunks, self._tuned_embedder if arm in RETRIEVER_ARMS else self._embedder, nearest)

    def llm(self, arm: str = "lm") -> LLM:
        """The arm's language model with the run's system prompt: a HuggingFaceLLM, or of a served model an OpenAI."""
        ref, answer, system = self._model(arm), self.config.answer, self.config.retrieval.system_message
        if ref.provider == "openai":
            from radit_job.models.llamaindex_openai import as_openai_llm

            return as_openai_llm(
                ref, max_new_tokens=answer.max_new_tokens, temperature=answer.temperature, system_prompt=system
            )
        return as_llm(open_local_lm(ref), max_new_tokens=answer.max_new_tokens, system_prompt=system)

    def query_engine(self, arm: str = "lm") -> BaseQueryEngine:
        """The arm as a whole: `.query("...")` asks as the pipeline does; a Response with its source nodes."""
        lm = open_generator(self._model(arm))
        asking = Asking(
            conversations=self._conversations(arm),
            weigh=partial(retrieval_weights, temperature=self.config.retrieval.temperature),
            choose=vote,
            mixes=self.config.retrieval.context == "ensemble",
            max_new_tokens=self.config.answer.max_new_tokens,
            temperature=self.config.answer.temperature,
            seed=self.config.seed,
        )
        return as_query_engine(lm, None if arm in CLOSED_BOOK_ARMS else self.retriever(arm), asking)

    def _conversations(self, arm: str) -> Callable[[str, Sequence[str]], list[Conversation]]:
        """How a question and the texts of its chunks become prompts, as in the stage `answer`."""
        retrieval = self.config.retrieval
        prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
        build = builder_of(arm, prompts, shots=())
        if retrieval.context != "joined" and arm not in CLOSED_BOOK_ARMS:
            return lambda question, texts: [build(question, [text]) for text in texts or [""]]
        return lambda question, texts: [build(question, texts)]

    def _model(self, arm: str) -> ModelRef:
        self._check_arm(arm)
        base = self.config.models.lm.ref()
        return tuned_ref(self.artifact("lm"), base) if arm in TUNED_ARMS else base

    def _check_arm(self, arm: str) -> None:
        arms = [name for name in self.config.evaluate.arms if name in ASKABLE_ARMS]
        if arm == "few_shot":
            raise ConfigError("few_shot cannot be asked: it is there to compare with", todo=_choices(arms))
        if arm not in arms:
            raise ConfigError(f"run {self._record.run!r} has no arm {arm!r}", todo=_choices(arms))

    @cached_property
    def _embedder(self) -> Embedder:
        return open_embedder(self.config.models.embedder.ref())

    @cached_property
    def _tuned_embedder(self) -> Embedder:
        return open_embedder(tuned_retriever_ref(self.artifact("retriever"), self.config.models.embedder.ref()))


def open_run(store: str, run: str) -> Run:
    """Open a run of a store; ConfigError naming the runs there are if there is no such one."""
    return Run(store, run)


def _choices(arms: Sequence[str]) -> str:
    return f"The run's arms that can be asked are: {', '.join(arms) or 'none'}."
