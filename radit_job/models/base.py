"""What the stages ask of a model, whoever serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from radit_job.records import Message

Vectors = npt.NDArray[np.float32]
Conversation = Sequence[Message]
OnDone = Callable[[int], None]  # called with how many more items are finished, for progress


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer."""

    text: str  # without special tokens, stripped
    n_prompt_tokens: int
    n_completion_tokens: int  # with the end token, where the model wrote one
    finish_reason: Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """How likely a given answer is after a given prompt."""

    log_probability_nats: float  # sum over the answer's tokens, the end-of-turn token included
    n_tokens: int

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-probability: the held-out loss of this answer."""
        return -self.log_probability_nats / self.n_tokens


@dataclass(frozen=True, slots=True)
class Answered:
    """A generated answer, and how likely the reference answer was after the same prompt."""

    completion: Completion
    reference: AnswerScore | None


@dataclass(frozen=True, slots=True)
class Mixture:
    """One question as several prompts, whose next-token probabilities are mixed at every step."""

    conversations: tuple[Conversation, ...]  # one per chunk
    weights: tuple[float, ...]  # p_R(c|x) of each: they add up to 1


class Generator(Protocol):
    """A language model that answers conversations whose last turn is the user's."""

    def complete(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        """Answers in the order of the conversations; temperature 0 is greedy and deterministic."""
        ...


class AnsweringLM(Generator, Protocol):
    """A Generator that can be measured before it is asked, and may tell how likely a reference answer was."""

    @property
    def context_tokens(self) -> int | None:
        """What the model reads at most; None where nobody knows."""
        ...

    def answer(
        self,
        conversations: Sequence[Conversation],
        references: Sequence[str] | None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[Answered]:
        """As `complete`; with `references`, and where the model can tell, also how likely each of them was."""
        ...

    def n_prompt_tokens(self, conversation: Conversation) -> int:
        """How long the conversation is as a prompt, template included."""
        ...

    def n_answer_tokens(self, answer: str) -> int:
        """How long an answer is, with the token that ends it."""
        ...


class Scorer(Protocol):
    """A language model that can say how likely a given answer is."""

    def score(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        *,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[AnswerScore]:
        """The log-probability of each answer after its conversation, in their order."""
        ...


class ScoringLM(AnsweringLM, Scorer, Protocol):
    """A language model that can be measured, answers, and says how likely a given answer is."""


class Embedder(Protocol):
    """A text encoder whose vectors are compared by cosine."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def embed_documents(self, texts: Sequence[str], *, batch_size: int = 32, on_done: OnDone | None = None) -> Vectors:
        """[n, dimension] float32, each row of length 1, in the order of the texts."""
        ...

    def embed_queries(self, texts: Sequence[str], *, batch_size: int = 32, on_done: OnDone | None = None) -> Vectors:
        """As `embed_documents`, by the query side of the encoder (the same one, for a symmetric model)."""
        ...
