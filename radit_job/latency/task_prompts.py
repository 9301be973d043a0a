"""What the model is asked in each task: the run's own prompts for a query, and a request to rewrite it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from radit_job.latency.base import Part, Task
from radit_job.latency.finding import Finder
from radit_job.models.base import Conversation
from radit_job.rag.answering import ArmPrompts, Asked
from radit_job.records import Message, Question

# llama_index.core.retrievers.fusion_retriever.QUERY_GEN_PROMPT, word for word: what QueryFusionRetriever asks.
REWRITE_PROMPT = (
    "You are a helpful assistant that generates multiple search queries based on a "
    "single input query. Generate {num_queries} search queries, one on each line, "
    "related to the following input query:\n"
    "Query: {query}\n"
    "Queries:\n"
)


def rewriting(question: str, n_queries: int) -> Conversation:
    """The request for so many search queries made of one question."""
    return [Message("user", REWRITE_PROMPT.format(num_queries=n_queries, query=question))]


@dataclass(frozen=True, slots=True)
class Ready:
    """One question's prompts, ready for the model."""

    conversations: tuple[Conversation, ...]
    weights: tuple[float, ...]  # how much each one's answer counts
    error: str | None = None  # why there are none


@dataclass(frozen=True, slots=True)
class TaskPrompts:
    """Questions to prompts, task by task."""

    finder: Finder
    arm: ArmPrompts
    rewrites: int  # search queries that are asked for
    _known: dict[str, Ready] = field(default_factory=dict)  # the query's prompts, for the task complete

    def know(self, task: Task, questions: Sequence[str]) -> None:
        """What must be there before the clock starts: for `complete` the prompts that the query would make."""
        if task == "complete" and (missing := [text for text in questions if text not in self._known]):
            self._known.update(zip(missing, self._query(missing, {}), strict=True))

    def of(self, task: Task, questions: Sequence[str]) -> tuple[list[Ready], dict[Part, float]]:
        """Each question's prompts, and the seconds for all of them together by part."""
        parts: dict[Part, float] = {}
        start_s = time.perf_counter()
        match task:
            case "rewrite":
                ready = [Ready((rewriting(text, self.rewrites),), (1.0,)) for text in questions]
            case "query":
                ready = self._query(questions, parts)
            case "complete":
                ready = [self._known[text] for text in questions]
        parts["prompt"] = time.perf_counter() - start_s - sum(parts.values())
        return ready, parts

    def _query(self, questions: Sequence[str], parts: dict[Part, float]) -> list[Ready]:
        found = self.finder(questions)
        parts |= {"embed": found.embed_s, "retrieve": found.retrieve_s}
        ready = []
        for text, context in zip(questions, found.contexts, strict=True):
            item = Asked("val", Question("", text, "", None, (), "file"), context)
            prompts = self.arm.of(item)
            weights = tuple(self.arm.weights(item, prompts))
            error = None if prompts else self.arm.why_none(item)
            ready.append(Ready(tuple(prompt.conversation for prompt in prompts), weights, error))
        return ready
