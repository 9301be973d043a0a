"""A language model as the judge of answers: LlamaIndex's prompts, asked in bulk.

The prompts are those of LlamaIndex's evaluators, word for word. The evaluators' own loop is not used: it asks one by
one, knows no budget and keeps no answer, and one judgement that it cannot read ends it (CorrectnessEvaluator) or counts
as a NO (FaithfulnessEvaluator, RelevancyEvaluator). Nor is their second look at a context that is too long for one
prompt: such a judgement is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from radit_job import observe
from radit_job.models.base import Completion, Conversation, OnDone
from radit_job.rag.judgement import Reading, read_score
from radit_job.rag.thoughts import has_used_up_its_limit, used_up
from radit_job.rag.verdicts import read_yes_no
from radit_job.records import Message

USED_UP = "evaluate.judge_max_tokens used up before any text came"
SHOWN_CHARACTERS = 120  # of a judge's answer that could not be read
Reader = Callable[[str], Reading]
Texts = Sequence[str]


class JudgeModel(Protocol):
    """What judging needs of a language model."""

    @property
    def context_tokens(self) -> int | None:
        """What the model reads at most; None where nobody knows."""
        ...

    def n_prompt_tokens(self, conversation: Conversation) -> int:
        """How long the conversation is as a prompt."""
        ...

    def complete(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, on_done: OnDone | None = None
    ) -> list[Completion]:
        """Answers in the order of the conversations, greedy."""
        ...


class RepeatableModel(JudgeModel, Protocol):
    """A model that can be asked the same again and may answer otherwise."""

    def complete(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        on_done: OnDone | None = None,
        repeat: int = 0,
    ) -> list[Completion]:
        """As JudgeModel's; another number of the repeat is another call."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge said of one thing: exactly one of value and error is set."""

    value: float | None
    error: str | None = None
    reason: str = ""  # the error without its details, so that failures can be counted


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to be judged, with what it is judged by."""

    question: str
    answer: str
    reference: str = ""
    contexts: Texts = ()


def correctness_prompt(item: Judged) -> Conversation:
    """CorrectnessEvaluator's: 1 to 5, against the reference."""
    reference = item.reference or "(NO REFERENCE ANSWER SUPPLIED)"
    values = {"query": item.question, "generated_answer": item.answer, "reference_answer": reference}
    return _messages("CorrectnessEvaluator", values)


def faithfulness_prompt(item: Judged) -> Conversation:
    """FaithfulnessEvaluator's: does the context support the answer."""
    return _messages("FaithfulnessEvaluator", {"query_str": item.answer, "context_str": _joined(item.contexts)})


def relevancy_prompt(item: Judged) -> Conversation:
    """RelevancyEvaluator's: are answer and context in line with the question."""
    query = f"Question: {item.question}\nResponse: {item.answer}"
    return _messages("RelevancyEvaluator", {"query_str": query, "context_str": _joined(item.contexts)})


def preference_prompt(first: Judged, second: Judged) -> Conversation:
    """PairwiseComparisonEvaluator's, the answers in this order."""
    values = {"query": first.question, "answer_1": first.answer, "answer_2": second.answer}
    return _messages("PairwiseComparisonEvaluator", values | {"reference": first.reference})


# What is asked of each answer by itself, and how the judge's answer is read.
METRICS: dict[str, tuple[Callable[[Judged], Conversation], Reader]] = {
    "correctness": (correctness_prompt, read_score),
    "faithfulness": (faithfulness_prompt, read_yes_no),
    "relevancy": (relevancy_prompt, read_yes_no),
}


def _joined(contexts: Texts) -> str:
    return "\n\n".join(text.strip() for text in contexts if text.strip())  # as LlamaIndex's synthesizer packs them


def _messages(evaluator: str, values: dict[str, str]) -> Conversation:
    return tuple(
        Message("system" if message.role.value == "system" else "user", message.content or "")
        for message in _template(evaluator).format_messages(**values)
    )


@cache
def _template(evaluator: str) -> Any:
    import llama_index.core.evaluation as evaluation  # late: only a run with a judge needs it
    from llama_index.core.llms import MockLLM

    return getattr(evaluation, evaluator)(llm=MockLLM()).get_prompts()["eval_template"]


@dataclass(slots=True)
class Judge:
    """A model that is asked in bulk, and what became of its answers."""

    model: JudgeModel
    max_new_tokens: int
    failures: dict[str, Counter[str]] = field(default_factory=dict)  # by metric: reason -> count
    n_asked: Counter[str] = field(default_factory=Counter)  # by metric; prompts, each different one once

    def ask(
        self, metric: str, conversations: Sequence[Conversation], read: Reader, read_cut: Reader | None = None
    ) -> list[Judgement]:
        """One judgement per conversation, in their order; equal conversations are asked once.

        `read_cut` reads the answers that the limit on their length cut; without it `read` does.
        """
        found = dict.fromkeys(conversations)
        too_long = {asked: error for asked in found if (error := self._too_long(asked))}
        fitting = [asked for asked in found if asked not in too_long]
        with observe.progress(f"judging: {metric}", total=len(fitting), unit="judgements") as bar:
            answers = self.model.complete(fitting, max_new_tokens=self.max_new_tokens, on_done=bar.advance)
        judgements = {
            asked: self._judgement(answer, (read_cut or read) if answer.finish_reason == "length" else read)
            for asked, answer in zip(fitting, answers, strict=True)
        }
        judgements |= {asked: Judgement(None, error, "a prompt that is too long") for asked, error in too_long.items()}
        self.n_asked[metric] += len(found)
        failed = Counter(item.reason for item in judgements.values() if item.error is not None)
        self.failures.setdefault(metric, Counter()).update(failed)
        return [judgements[asked] for asked in conversations]

    def ask_again(
        self, metric: str, model: RepeatableModel, conversations: Sequence[Conversation], read: Reader
    ) -> list[Judgement]:
        """The same a second time, of the same model; no failure is counted."""
        with observe.progress(f"judging {metric} again", total=len(conversations), unit="judgements") as bar:
            answers = model.complete(conversations, max_new_tokens=self.max_new_tokens, on_done=bar.advance, repeat=1)
        return [self._judgement(answer, read) for answer in answers]

    def _too_long(self, asked: Conversation) -> str:
        """A prompt that the model cannot read would end the whole bulk."""
        limit = self.model.context_tokens
        if limit is None or (n_tokens := self.model.n_prompt_tokens(asked)) + self.max_new_tokens <= limit:
            return ""
        return (
            f"the judge reads {limit} tokens, the prompt has {n_tokens}, and {self.max_new_tokens} are for its answer"
        )

    def _judgement(self, answer: Completion, read: Reader) -> Judgement:
        if answer.finish_reason == "content_filter":
            return Judgement(None, "the judge's content filter cut its answer", "a content filter")
        if has_used_up_its_limit(answer):
            error = f"the judge: {used_up(self.max_new_tokens, 'evaluate.judge_max_tokens')}"
            return Judgement(None, error, USED_UP)
        reading = read(answer.text)
        if reading.value is not None:
            return Judgement(reading.value)
        return Judgement(
            None, f"{reading.reason} in the judge's answer: {answer.text[:SHOWN_CHARACTERS]!r}", reading.reason
        )
