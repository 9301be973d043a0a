"""How a question becomes prompts that the model can read, and how its answers become one prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from radit_job.models.base import Answered, AnsweringLM, Completion, Conversation, Mixture, OnDone
from radit_job.rag.context import Context
from radit_job.rag.prompts import Prompts
from radit_job.rag.thoughts import has_used_up_its_limit, used_up
from radit_job.rag.voting import mixture_log_probability, retrieval_weights, vote
from radit_job.records import CLOSED_BOOK_ARMS, Prediction, Question, Split

NO_CONTEXT = Context(chunk_ids=(), scores=(), texts=(), gold_rank=None)
FILTERED = "the service's content filter cut the answer"

# joined: all chunks in one prompt. Else a prompt per chunk: separate votes on their answers, ensemble makes one.
Form = Literal["joined", "separate", "ensemble"]
FinishReason = Literal["stop", "length", "content_filter", "error"]
# (question, texts of its chunks) -> conversation
Builder = Callable[[str, Sequence[str]], Conversation]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that every arm answers."""

    split: Split
    question: Question
    context: Context


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation to be answered, and which of the question's chunks stand in it."""

    conversation: Conversation
    chunks: slice


def builder_of(arm: str, prompts: Prompts, shots: Sequence[Question]) -> Builder:
    """How the arm's conversations are built; `shots` are shown by few_shot."""
    if arm in CLOSED_BOOK_ARMS:
        return lambda question, texts: prompts.closed_book(question)
    if arm == "few_shot":
        pairs = [(row.question, row.answer) for row in shots]
        return lambda question, texts: prompts.few_shot(pairs, question, texts)
    return prompts.with_context


@dataclass(frozen=True, slots=True)
class ArmPrompts:
    """One arm's prompts, each short enough to leave room for the answer."""

    lm: AnsweringLM
    arm: str
    build: Builder
    max_new_tokens: int
    context: Form  # of the arms that read chunks
    retriever_temperature: float  # of the chunks' weights, where each has a prompt of its own
    measures_references: bool  # how likely they are: then they must fit behind the prompt, too

    @property
    def form(self) -> Form:
        """How the arm's prompts hold the chunks; without chunks there is one prompt."""
        return "joined" if self.arm in CLOSED_BOOK_ARMS else self.context

    def of(self, item: Asked) -> list[Prompt]:
        """The question's prompts; none if it cannot be made short enough.

        Joined: one prompt; the chunks that retrieval ranks last are left out until it fits. Separate and ensemble: one
        per chunk that fits.
        """
        limit = self.lm.context_tokens
        room = None if limit is None else limit - self._n_answer_tokens(item)
        n_chunks = 0 if self.arm in CLOSED_BOOK_ARMS else len(item.context.texts)
        if self.form != "joined" and n_chunks:
            parts = (slice(row, row + 1) for row in range(n_chunks))
            return [prompt for part in parts if self._fits(prompt := self._prompt(item, part), room)]
        for n in range(n_chunks, -1, -1):
            if self._fits(prompt := self._prompt(item, slice(0, n)), room):
                return [prompt]
        return []

    def weights(self, item: Asked, prompts: Sequence[Prompt]) -> list[float]:
        """How much each of the question's prompts counts: the weight of its chunk among those at hand."""
        if len(prompts) < 2:
            return [1.0] * len(prompts)
        scores = [item.context.scores[prompt.chunks][0] for prompt in prompts]
        return retrieval_weights(scores, self.retriever_temperature)

    def why_none(self, item: Asked) -> str:
        """Why there is none: the question itself, or only the reference, whose probability is to be measured."""
        least_context = item.context.texts[:1] if self.form != "joined" else ()
        n_prompt = self.lm.n_prompt_tokens(self.build(item.question.question, least_context))
        limit = f"the {self.lm.context_tokens} tokens that the model reads"
        if self.lm.context_tokens is not None and n_prompt + self.max_new_tokens > self.lm.context_tokens:
            return f"the question ({n_prompt} tokens as a prompt) leaves no room for an answer in {limit}"
        n_reference = self.lm.n_answer_tokens(item.question.answer)
        return f"the reference answer ({n_reference} tokens) does not fit behind the question in {limit}"

    def _n_answer_tokens(self, item: Asked) -> int:
        if not self.measures_references:
            return self.max_new_tokens
        return max(self.max_new_tokens, self.lm.n_answer_tokens(item.question.answer))

    def _prompt(self, item: Asked, chunks: slice) -> Prompt:
        return Prompt(self.build(item.question.question, item.context.texts[chunks]), chunks)

    def _fits(self, prompt: Prompt, room: int | None) -> bool:
        return room is None or self.lm.n_prompt_tokens(prompt.conversation) <= room


class Decoding(TypedDict):
    """How answers are drawn; see `models.base.Generator.complete`."""

    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int
    on_done: OnDone | None


def answer_all(arm: ArmPrompts, asked: Sequence[Asked], decoding: Decoding) -> Iterator[Prediction]:
    """What the arm answers to each question, in their order."""
    prompts = [arm.of(item) for item in asked]
    weights = [arm.weights(item, mine) for item, mine in zip(asked, prompts, strict=True)]
    references = [item.question.answer for item in asked] if arm.measures_references else None
    if arm.form == "ensemble":
        answered = _answer_mixtures(arm.lm, prompts, weights, references, decoding)
        weights = [[1.0] * len(mine) for mine in answered]  # the mixture has used them
    else:
        answered = _answer_prompts(arm.lm, prompts, references, decoding)
    for item, mine, found, theirs in zip(asked, prompts, answered, weights, strict=True):
        error = None if mine else arm.why_none(item)
        yield to_prediction(arm.arm, item, mine, found, theirs, max_new_tokens=arm.max_new_tokens, error=error)


def _answer_prompts(
    lm: AnsweringLM, prompts: Sequence[Sequence[Prompt]], references: Sequence[str] | None, decoding: Decoding
) -> list[list[Answered]]:
    """Of each question an answer per prompt."""
    conversations = [prompt.conversation for mine in prompts for prompt in mine]
    if references is not None:
        references = [reference for reference, mine in zip(references, prompts, strict=True) for _ in mine]
    answered = iter(lm.answer(conversations, references, **decoding))
    return [[next(answered) for _ in mine] for mine in prompts]


def _answer_mixtures(
    lm: AnsweringLM,
    prompts: Sequence[Sequence[Prompt]],
    weights: Sequence[Sequence[float]],
    references: Sequence[str] | None,
    decoding: Decoding,
) -> list[list[Answered]]:
    """Of each question one answer, if it has prompts."""
    from radit_job.models.ensemble import answer_mixtures  # late: it imports torch, which a served model needs not

    rows = [row for row, mine in enumerate(prompts) if mine]
    mixtures = [Mixture(tuple(prompt.conversation for prompt in prompts[row]), tuple(weights[row])) for row in rows]
    wanted = None if references is None else [references[row] for row in rows]
    answered = iter(answer_mixtures(lm, mixtures, wanted, **decoding))
    return [[next(answered)] if mine else [] for mine in prompts]


def to_prediction(
    arm: str,
    item: Asked,
    prompts: Sequence[Prompt],
    answered: Sequence[Answered],
    weights: Sequence[float],
    *,
    max_new_tokens: int,
    error: str | None = None,
) -> Prediction:
    """What the arm answered: of several answers, `weights` beside them, one is chosen.

    Without any, `error` says why there is none.
    """
    question, context = item.question, item.context
    used = [row for prompt in prompts for row in range(len(context.scores))[prompt.chunks]]
    best = _choose(answered, weights)
    finish_reason: FinishReason = best.completion.finish_reason if best else "error"
    if answered and best is None:
        finish_reason, error = _no_text(answered, max_new_tokens)
    return Prediction(
        question_id=question.question_id,
        arm=arm,
        split=item.split,
        question=question.question,
        reference=question.answer,
        answer=best.completion.text if best else "",
        chunk_ids=tuple(context.chunk_ids[row] for row in used),
        scores=tuple(context.scores[row] for row in used),
        gold_chunk_ids=question.chunk_ids,
        gold_rank=None if arm in CLOSED_BOOK_ARMS else context.gold_rank,
        n_prompt_tokens=sum(item.completion.n_prompt_tokens for item in answered),
        n_completion_tokens=sum(item.completion.n_completion_tokens for item in answered),
        finish_reason=finish_reason,
        answer_nats_per_token=_reference_nats_per_token(answered, weights) if best else None,
        error=error,
    )


def _choose(answered: Sequence[Answered], weights: Sequence[float]) -> Answered | None:
    """The answer that counts; None where none is one: a content filter cut it, or it ended before any text came."""
    usable = [row for row, item in enumerate(answered) if _is_usable(item.completion)]
    if not usable:
        return None
    texts = [answered[row].completion.text for row in usable]
    return answered[usable[vote(texts, [weights[row] for row in usable])]]


def _is_usable(completion: Completion) -> bool:
    return completion.finish_reason != "content_filter" and not has_used_up_its_limit(completion)


def _no_text(answered: Sequence[Answered], max_new_tokens: int) -> tuple[Literal["length", "content_filter"], str]:
    """(finish reason, error) where no answer counts."""
    if any(item.completion.finish_reason == "length" for item in answered):
        return "length", used_up(max_new_tokens, "answer.max_new_tokens")
    return "content_filter", FILTERED


def _reference_nats_per_token(answered: Sequence[Answered], weights: Sequence[float]) -> float | None:
    """The reference's mean negative log-probability; None where the model could not tell."""
    references = [item.reference for item in answered if item.reference is not None]
    if not references or len(references) < len(answered):
        return None
    total = mixture_log_probability([reference.log_probability_nats for reference in references], weights)
    return round(-total / references[0].n_tokens, 6)
