"""LlamaIndex's own way to an answer, on the same weights and the same vectors: the baseline.

VectorStoreIndex, its query engine with its own prompts, HuggingFaceLLM and HuggingFaceEmbedding as they come. Where
its time goes is told by LlamaIndex's own events and by the model's forward passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_index.core.instrumentation as instrumentation
import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.llm import LLMCompletionEndEvent, LLMCompletionStartEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.schema import TextNode
from pydantic import PrivateAttr

from radit_job.latency.base import PARTS, Call, Part, Task, Timed
from radit_job.latency.finding import Finder
from radit_job.latency.forward_clock import ForwardClock, Pass, first_token_s, split
from radit_job.latency.task_prompts import REWRITE_PROMPT
from radit_job.models.base import Embedder
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.models.llamaindex import as_llm

Mark = tuple[float, BaseEvent]  # when, and what


class _Marks(BaseEventHandler):
    """The events of one query, with the clock's time."""

    _kept: list[Mark] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "LatencyMarks"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self._kept.append((time.perf_counter(), event))

    def taken(self) -> list[Mark]:
        """Those since the last time."""
        marks = list(self._kept)
        self._kept.clear()
        return marks


class _RunEmbedding(BaseEmbedding):
    """A served encoder as LlamaIndex asks for it."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(model_name="served")
        self._embedder = embedder

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(value) for value in self._embedder.embed_queries([query])[0]]

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(value) for value in self._embedder.embed_documents([text])[0]]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class LlamaIndexEngine:
    """`index.as_query_engine(similarity_top_k=k)` over the run's own vectors."""

    name = "llamaindex"
    is_serial = True

    def __init__(
        self, lm: HuggingFaceLM, finder: Finder, encoder: Path | None, *, max_new_tokens: int, rewrites: int
    ) -> None:
        """`encoder` is the folder of a local text encoder; None where it is served: then the finder's is asked."""
        self._lm = lm
        self._rewrites = rewrites
        self._llm = as_llm(lm, max_new_tokens=max_new_tokens)
        vectors = finder.index.vectors.take(np.arange(len(finder.texts)))  # [n, dimension]
        nodes = [
            TextNode(id_=chunk_id, text=text, embedding=vector.tolist())
            for chunk_id, text, vector in zip(finder.index.chunk_ids, finder.texts, vectors, strict=True)
        ]
        index = VectorStoreIndex(nodes=nodes, embed_model=_embed_model(encoder, finder.embedder))
        self._engine = index.as_query_engine(llm=self._llm, similarity_top_k=finder.k)
        self._marks = _Marks()
        instrumentation.get_dispatcher().add_event_handler(self._marks)
        self._own_prompts: dict[str, list[str]] = {}  # of a question's query, for the task complete

    def ask(self, task: Task, questions: Sequence[str]) -> list[Timed]:
        """See `Engine`: HuggingFaceLLM knows one sequence at a time, so the clients stand in line."""
        if task == "complete":
            for question in questions:
                if question not in self._own_prompts:
                    self._own_prompts[question] = self._query_prompts(question)
        start_s = time.perf_counter()
        return [self._one(task, question, time.perf_counter() - start_s) for question in questions]

    def _one(self, task: Task, question: str, waited_s: float) -> Timed:
        self._marks.taken()
        with ForwardClock(self._lm.model) as clock:
            start_s = time.perf_counter()
            match task:
                case "rewrite":
                    self._llm.complete(REWRITE_PROMPT.format(num_queries=self._rewrites, query=question))
                case "query":
                    self._engine.query(question)
                case "complete":
                    for prompt in self._own_prompts[question]:
                        self._llm.complete(prompt, formatted=True)
            end_s = time.perf_counter()
        marks = self._marks.taken()
        if task == "query":  # what it asked is what `complete` asks, and need not be found out by another query
            self._own_prompts[question] = _prompts(marks)
        parts = dict.fromkeys(PARTS, 0.0) | _parts(marks, clock.passes)
        total_s = waited_s + end_s - start_s
        parts["other"] = total_s - sum(parts.values())
        first_s = first_token_s(clock.passes)
        first_s = None if first_s is None else waited_s + first_s - start_s
        return Timed(total_s, parts, first_s, tuple(self._calls(marks, clock.passes)))

    def _calls(self, marks: Sequence[Mark], passes: Sequence[Pass]) -> Iterator[Call]:
        for mine, event in zip(_by_call(marks, passes), _events(marks, LLMCompletionEndEvent), strict=True):
            ids = event.response.raw["model_output"][0].tolist()  # of the prompt and the answer
            n_prompt = sum(one.n_tokens for one in mine.passes if one.is_prefill)
            prompt = self._lm.tokenizer.decode(ids[:n_prompt], skip_special_tokens=False)
            yield Call(prompt, event.response.text, n_prompt, len(ids) - n_prompt)

    def _query_prompts(self, question: str) -> list[str]:
        """The texts with which a query asks the model."""
        self._marks.taken()
        self._engine.query(question)
        return _prompts(self._marks.taken())


def _embed_model(encoder: Path | None, embedder: Embedder) -> BaseEmbedding:
    if encoder is None:
        return _RunEmbedding(embedder)
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    return HuggingFaceEmbedding(model_name=str(encoder))


@dataclass(frozen=True, slots=True)
class _ModelCall:
    start_s: float
    end_s: float
    passes: list[Pass]


def _events(marks: Sequence[Mark], kind: type[BaseEvent]) -> list[Any]:
    return [event for _, event in marks if isinstance(event, kind)]


def _prompts(marks: Sequence[Mark]) -> list[str]:
    return [event.prompt for event in _events(marks, LLMCompletionEndEvent)]


def _times_s(marks: Sequence[Mark], kind: type[BaseEvent]) -> list[float]:
    return [moment_s for moment_s, event in marks if isinstance(event, kind)]


def _by_call(marks: Sequence[Mark], passes: Sequence[Pass]) -> list[_ModelCall]:
    """Each call of the model with its forward passes."""
    starts, ends = _times_s(marks, LLMCompletionStartEvent), _times_s(marks, LLMCompletionEndEvent)
    return [
        _ModelCall(start_s, end_s, [one for one in passes if start_s <= one.start_s < end_s])
        for start_s, end_s in zip(starts, ends, strict=True)
    ]


def _parts(marks: Sequence[Mark], passes: Sequence[Pass]) -> dict[Part, float]:
    """Where one query's time went, but for `other`."""
    embed_s = sum(_times_s(marks, EmbeddingEndEvent)) - sum(_times_s(marks, EmbeddingStartEvent))
    found_s = sum(_times_s(marks, RetrievalEndEvent)) - sum(_times_s(marks, RetrievalStartEvent))
    parts: dict[Part, float] = {"embed": embed_s, "retrieve": found_s - embed_s, "prompt": 0.0}
    parts |= {"prefill": 0.0, "decode": 0.0}
    calls = _by_call(marks, passes)
    if calls and (found := _times_s(marks, RetrievalEndEvent)):  # the chunks' texts are packed into the prompt
        parts["prompt"] += calls[0].start_s - found[-1]
    for call in calls:
        for part, seconds in split(call.passes, call.start_s, call.end_s).items():
            parts[part] += seconds
    return parts
