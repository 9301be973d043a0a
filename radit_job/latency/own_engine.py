"""The run's own way to an answer, with the model in this process: what comes at the same moment is one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

from radit_job.latency.base import PARTS, Call, Part, Task, Timed
from radit_job.latency.forward_clock import ForwardClock, first_token_s, split
from radit_job.latency.task_prompts import Ready, TaskPrompts
from radit_job.models.base import Completion, Mixture
from radit_job.models.ensemble import answer_mixtures
from radit_job.models.huggingface import HuggingFaceLM
from radit_job.rag.voting import vote


class OwnEngine:
    """`models.lm` in this process."""

    name = "radit"
    is_serial = False

    def __init__(self, lm: HuggingFaceLM, prompts: TaskPrompts, *, max_new_tokens: int, mixes: bool) -> None:
        """`mixes`: a query's prompts give one answer (retrieval.context ensemble)."""
        self._lm = lm
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._mixes = mixes

    def ask(self, task: Task, questions: Sequence[str]) -> list[Timed]:
        """See `Engine`: one batch, and every answer is there when the whole batch is."""
        self._prompts.know(task, questions)
        with ForwardClock(self._lm.model) as clock:
            start_s = time.perf_counter()
            ready, before = self._prompts.of(task, questions)
            asked_s = time.perf_counter()
            completions = self._complete(task, ready)
            answered_s = time.perf_counter()
            for one, mine in zip(ready, completions, strict=True):
                _choose(one, mine)
            total_s = time.perf_counter() - start_s
        parts = dict.fromkeys(PARTS, 0.0) | before
        for part, seconds in split(clock.passes, asked_s, answered_s).items():
            parts[part] += seconds
        parts["other"] = total_s - sum(parts.values())
        first_s = first_token_s(clock.passes)
        return [
            self._timed(one, mine, parts, total_s, None if first_s is None else first_s - start_s)
            for one, mine in zip(ready, completions, strict=True)
        ]

    def _complete(self, task: Task, ready: Sequence[Ready]) -> list[list[Completion]]:
        """Of each question a completion per prompt; of a mixture one."""
        n_prompts = sum(len(one.conversations) for one in ready)
        if self._mixes and task != "rewrite":
            mixtures = [Mixture(one.conversations, one.weights) for one in ready if one.conversations]
            mixed = iter(
                answer_mixtures(
                    self._lm, mixtures, None, max_new_tokens=self._max_new_tokens, batch_size=max(1, n_prompts)
                )
            )
            return [[next(mixed).completion] if one.conversations else [] for one in ready]
        conversations = [conversation for one in ready for conversation in one.conversations]
        found = iter(
            self._lm.complete(conversations, max_new_tokens=self._max_new_tokens, batch_size=max(1, n_prompts))
        )
        return [list(islice(found, len(one.conversations))) for one in ready]

    def _timed(
        self,
        one: Ready,
        completions: Sequence[Completion],
        parts: dict[Part, float],
        total_s: float,
        first_s: float | None,
    ) -> Timed:
        if one.error is not None:
            return Timed(total_s, parts, None, (), one.error)
        n = len(one.conversations)
        by_prompt = (
            completions if len(completions) == n else [completions[0]] * n
        )  # all prompts of a mixture grow alike
        n_tokens = [self._lm.n_prompt_tokens(conversation) for conversation in one.conversations]
        calls = tuple(
            Call(
                self._lm.chat.render(conversation),
                completion.text,
                n_prompt,
                completion.n_completion_tokens // (1 if len(completions) == n else n),
            )
            for conversation, completion, n_prompt in zip(one.conversations, by_prompt, n_tokens, strict=True)
        )
        return Timed(total_s, parts, first_s, calls)


def _choose(one: Ready, completions: Sequence[Completion]) -> str:
    """The answer: the voted one where several were written."""
    if len(completions) < 2:
        return completions[0].text if completions else ""
    answers = [completion.text for completion in completions]
    return answers[vote(answers, one.weights)]
