"""What a run will cost, stage by stage: numbers in, rows out. Pure; who measures them is cli/measuring.py.

Two figures: what is likely, by the assumptions below, and the most, with every answer as long as it may be, and every
chunk or sentence asked about that may be. Calls that fail and are tried again come on top of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from radit_job.config.schema import Config
from radit_job.models.cost import Prices, Usage
from radit_job.pipeline.estimated_calls import EstimatedCalls
from radit_job.pipeline.measures import Measures
from radit_job.pipeline.served import Use, served_uses
from radit_job.pipeline.timed_questions import n_embedded, n_timed_questions
from radit_job.records import CLOSED_BOOK_ARMS, NEED_CONTEXT, TUNED_ARMS
from radit_job.training.api_examples import MIN_VALIDATION_ROWS

# What nobody can know before; all of it is named where the estimate is printed. Measured on a paper of 120 chunks.
QUESTION_TOKENS = 15  # of a written question
REFERENCE_TOKENS = 25  # of a written answer: one short full sentence is asked for
PAIR_FORM_TOKENS = 12  # the JSON around a written pair
DROPPED_SHARE = 0.3  # of pairs asked for that do not come or that the filters drop; other chunks make up for them
CHECK_TOKENS = 2  # YES or NO
ANSWER_TOKENS = 40  # of an untuned model: a sentence or two
JUDGEMENT_TOKENS = {"correctness": 50, "faithfulness": 2, "relevancy": 2, "preference": 80}  # a score, and why

TEXTS_PER_CALL = 32  # of an embedder: the default batch of its protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One stage's calls to one model."""

    stage: str
    model: str
    usage: Usage  # likely
    most: Usage
    usd: float | None  # None: a price is unknown
    most_usd: float | None


def estimate(config: Config, measures: Measures, prices: Prices, skipped: Iterable[str] = ()) -> list[Row]:
    """A row for each stage and each served model that it calls; `skipped` stages are in the store already."""
    sizes = _Sizes(config, measures)
    return [
        _row(use, list(sizes.calls(use)), measures, prices) for use in served_uses(config) if use.stage not in skipped
    ]


def _row(use: Use, calls: list[EstimatedCalls], measures: Measures, prices: Prices) -> Row:
    margin = measures.margins.get(use.role, 1.0)
    likely = sum((one.usage() for one in calls), Usage())
    most = sum((one.usage(margin=margin) for one in calls), Usage())
    name = use.priced_as
    return Row(use.stage, name, likely, most, prices.cost(name, likely), prices.cost(name, most))


class _Sizes:
    """How many calls of which length each use comes to."""

    def __init__(self, config: Config, measures: Measures) -> None:
        self._config = config
        self._measures = measures
        questions = config.questions
        n_wanted = questions.per_chunk * measures.n_askable
        n_wanted = n_wanted if questions.limit is None else min(n_wanted, questions.limit)
        self.n_questions = n_wanted if measures.n_questions is None else measures.n_questions
        self.n_train = round(config.split.train_share * self.n_questions)
        n_shots = config.answer.few_shot_examples
        n_sampled = max(0, min(config.evaluate.train_sample, self.n_train - n_shots))
        self.n_asked = self.n_questions - self.n_train + n_sampled

    def calls(self, use: Use) -> Iterator[EstimatedCalls]:
        """The use's calls."""
        match use.stage, use.role:
            case _, "embedder":
                yield from self._embedded(use.stage)
            case "generate", _:
                yield from self._writing()
            case "finetune_lm", _:
                yield self._training()
            case "score", _:
                yield self._scores()
            case "answer", _:
                is_tuned = use.priced_as != use.model.name
                yield from (self._answers(arm) for arm in self._config.evaluate.arms if (arm in TUNED_ARMS) == is_tuned)
            case "benchmark", _:
                yield from self._timed()
            case "evaluate", _:
                yield from self._judgements()

    def _embedded(self, stage: str) -> Iterator[EstimatedCalls]:
        question = self._question("embedder")
        match stage:
            case "index":
                yield self._texts(self._measures.n_chunks, self._measures.all_chunk_tokens / self._measures.n_chunks)
            case "generate":
                yield self._texts(self._n_candidates(), question, self._most_embedded())
            case "augment":
                yield self._texts(self.n_train, question)
            case "answer":
                yield self._texts(self.n_asked, question)
            case "benchmark":
                yield EstimatedCalls(n_embedded(self._config, self.n_questions), question)
            case "evaluate":
                answers = [(self.n_asked, self._answer(arm, "embedder")) for arm in self._config.evaluate.arms]
                for n, n_tokens in [(self.n_asked, self._reference("embedder")), *answers]:
                    yield self._texts(n, n_tokens)

    def _texts(self, n: float, n_tokens: float, max_n: float | None = None) -> EstimatedCalls:
        most = n if max_n is None else max_n
        return EstimatedCalls(n / TEXTS_PER_CALL, n_tokens * TEXTS_PER_CALL, max_n=most / TEXTS_PER_CALL)

    def _question(self, role: str) -> float:
        return self._measures.question_tokens.get(role, QUESTION_TOKENS)

    def _reference(self, role: str) -> float:
        return self._measures.reference_tokens.get(role, REFERENCE_TOKENS)

    def _answer(self, arm: str, role: str) -> float:
        """A tuned model answers as it was taught."""
        longest = self._config.answer.max_new_tokens
        return min(longest, self._reference(role) if arm in TUNED_ARMS else ANSWER_TOKENS)

    def _frame(self, role: str, kind: str) -> float:
        return self._measures.frame_tokens[role, kind]

    def _n_candidates(self) -> float:
        return self.n_questions / (1 - DROPPED_SHARE)

    def _most_pairs(self) -> int:
        """How many the stage asks for before it gives up: each chunk for its share, as far as chunks may be asked."""
        n_chunks = min(self._measures.n_askable, self._measures.limits.chunks_per_question * self.n_questions)
        return self._config.questions.per_chunk * n_chunks

    def _most_embedded(self) -> int:
        """Every pair; or every sentence with all the questions that are tried for it."""
        limits = self._measures.limits
        if is_in_pairs(self._config):
            return self._most_pairs()
        return limits.sentences_per_question * self.n_questions * (1 + limits.n_samples)

    def _writing(self) -> Iterator[EstimatedCalls]:
        if is_in_pairs(self._config):
            yield from self._writing_pairs()
            return
        limits = self._measures.limits
        n = self._n_candidates() * limits.n_samples
        n_prompt = self._frame("question_writer", "sentence") + REFERENCE_TOKENS
        most = limits.sentences_per_question * self.n_questions * limits.n_samples
        yield EstimatedCalls(n, n_prompt, QUESTION_TOKENS, limits.sentence_question, max_n=max(n, most))

    def _writing_pairs(self) -> Iterator[EstimatedCalls]:
        limits, n_chunk = self._measures.limits, self._measures.chunk_tokens["question_writer"]
        most_pairs = self._most_pairs()
        n_pairs = min(self._n_candidates(), most_pairs)
        # No chunk is asked a second time before all were asked; what is made up for is asked for one by one.
        per_call = max(1.0, min(self._config.questions.per_chunk, self.n_questions / max(1, self._measures.n_askable)))
        most_calls = self.n_questions / per_call + max(0, most_pairs - self.n_questions)
        pair = QUESTION_TOKENS + REFERENCE_TOKENS + PAIR_FORM_TOKENS
        n_prompt = self._frame("question_writer", "write") + n_chunk
        longest = math.ceil(per_call) * limits.pair
        yield EstimatedCalls(n_pairs / per_call, n_prompt, per_call * pair, longest, max_n=most_calls)
        if self._config.questions.check == "call":
            n_prompt = self._frame("question_writer", "check") + n_chunk + QUESTION_TOKENS + REFERENCE_TOKENS
            yield EstimatedCalls(n_pairs, n_prompt, CHECK_TOKENS, limits.check, max_n=most_pairs)

    def _training(self) -> EstimatedCalls:
        tuning, retrieval = self._config.finetune_lm, self._config.retrieval
        n_held_out = self.n_train * tuning.dev_share
        n_context, n_examples = 0.0, self.n_train - (n_held_out if n_held_out >= MIN_VALIDATION_ROWS else 0.0)
        kind = "example"
        if tuning.context == "none":
            kind = "bare example"
        elif retrieval.context == "separate":
            n_context, n_examples = self._measures.chunk_tokens["lm"], n_examples * retrieval.k
        else:
            n_context = self._measures.chunk_tokens["lm"] * max(retrieval.k, (tuning.examples.distractors or 0) + 1)
        n_tokens = self._frame("lm", kind) + n_context + self._question("lm") + self._reference("lm")
        return EstimatedCalls(1, n_training_tokens=n_examples * n_tokens * tuning.epochs)

    def _scores(self) -> EstimatedCalls:
        """Each candidate's prompt with the reference behind it, sent back with one new token."""
        n_pairs = self.n_train * min(self._config.finetune_retriever.candidates, self._measures.n_chunks)
        n_filled = self._question("lm") + self._measures.chunk_tokens["lm"] + self._reference("lm")
        return EstimatedCalls(n_pairs, self._frame("lm", "candidate") + n_filled, 1, 1)

    def _answers(self, arm: str) -> EstimatedCalls:
        retrieval, n_per_question = self._config.retrieval, 1
        n_prompt = self._frame("lm", arm) + self._question("lm")
        if arm == "few_shot":
            n_prompt += self._config.answer.few_shot_examples * (self._question("lm") + self._reference("lm"))
        if arm not in CLOSED_BOOK_ARMS:
            n_per_question = retrieval.k if retrieval.context == "separate" else 1
            n_prompt += self._measures.chunk_tokens["lm"] * (retrieval.k / n_per_question)
        longest = self._config.answer.max_new_tokens
        return EstimatedCalls(self.n_asked * n_per_question, n_prompt, self._answer(arm, "lm"), longest)

    def _timed(self) -> Iterator[EstimatedCalls]:
        retrieval, longest = self._config.retrieval, self._config.answer.max_new_tokens
        n_timed = n_timed_questions(self._config, self.n_questions)
        n_rewritten = min(longest, self._config.benchmark.rewrites * QUESTION_TOKENS)
        n_prompt = self._frame("lm", "rewrite") + self._question("lm")
        yield EstimatedCalls(n_timed, n_prompt, n_rewritten, longest)
        n_per_question = retrieval.k if retrieval.context == "separate" else 1
        n_chunks = self._measures.chunk_tokens["lm"] * (retrieval.k / n_per_question)
        n_prompt = self._frame("lm", "query") + self._question("lm") + n_chunks
        n_calls = 2 * n_timed * n_per_question  # as a query, and as a bare prompt
        yield EstimatedCalls(n_calls, n_prompt, min(longest, ANSWER_TOKENS), longest)

    def _judgements(self) -> Iterator[EstimatedCalls]:
        evaluate, retrieval = self._config.evaluate, self._config.retrieval
        longest = evaluate.judge_max_tokens

        def calls(metric: str, n: float, n_filled: float) -> EstimatedCalls:
            n_prompt = self._frame("judge", metric) + n_filled
            return EstimatedCalls(n, n_prompt, min(longest, JUDGEMENT_TOKENS[metric]), longest)

        n_question, n_reference = self._question("judge"), self._reference("judge")
        for metric in evaluate.metrics:
            if metric == "preference":
                answers = n_reference + ANSWER_TOKENS
                yield calls(metric, 2 * self.n_asked, n_question + n_reference + answers)
            elif metric in JUDGEMENT_TOKENS:
                arms = [arm for arm in evaluate.arms if metric not in NEED_CONTEXT or arm not in CLOSED_BOOK_ARMS]
                for arm in arms:
                    n_filled = self._answer(arm, "judge")
                    n_filled += n_question if metric != "faithfulness" else 0.0
                    n_filled += n_reference if metric == "correctness" else 0.0
                    n_filled += self._measures.chunk_tokens["judge"] * retrieval.k if metric in NEED_CONTEXT else 0.0
                    yield calls(metric, self.n_asked, n_filled)
                if metric == "correctness":
                    n_again = min(evaluate.judge_repeats, self.n_asked * len(arms))
                    yield calls(metric, n_again, n_question + n_reference + ANSWER_TOKENS)


def is_in_pairs(config: Config) -> bool:
    """Whether the question writer reads chunks and writes pairs."""
    writing = config.questions.writing
    return writing == "pairs" or (writing == "auto" and config.models.question_writer.provider == "openai")
