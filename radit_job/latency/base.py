"""What is timed, and what every engine tells about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Task = Literal["rewrite", "query", "complete"]
# rewrite: search queries made of one question. query: the whole RAG query. complete: the query's own prompt, and
# nothing around it.
TASKS: tuple[Task, ...] = ("rewrite", "query", "complete")
Part = Literal["embed", "retrieve", "prompt", "prefill", "decode", "other"]
PARTS: tuple[Part, ...] = ("embed", "retrieve", "prompt", "prefill", "decode", "other")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the language model."""

    prompt: str  # as the model got it, chat template included; a served one's messages, role by role
    completion: str
    n_prompt_tokens: int
    n_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timed:
    """One question, answered once."""

    total_s: float  # from the moment that all clients asked, until this one's answer was there
    parts_s: Mapping[Part, float]  # of this question's own way; they add up to total_s, the waiting in line is `other`
    first_token_s: float | None  # from the same moment; None where the engine cannot tell
    calls: tuple[Call, ...]
    error: str | None = None  # why there is no answer; then no time of it counts


class Engine(Protocol):
    """Something that answers questions from the run's documents."""

    @property
    def name(self) -> str:
        """As the table shows it."""
        ...

    @property
    def is_serial(self) -> bool:
        """Whether it knows one query at a time, so that several clients stand in line."""
        ...

    def ask(self, task: Task, questions: Sequence[str]) -> list[Timed]:
        """All questions at the same moment, as so many clients would ask; in their order."""
        ...
