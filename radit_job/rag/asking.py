"""Asking a model for a block's pairs, so that what it answered once is not asked again after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from radit_job.models.base import Completion, Conversation
from radit_job.rag.pair_writing import Task, Written
from radit_job.rag.written_rounds import WrittenRound, WrittenRounds

BATCH = 8  # conversations, in a model of this process
KEPT_TOGETHER = 16  # a killed run writes at most so many again


@dataclass
class Asker:
    """Asks all conversations of a round at once, and counts what it took.

    What a served model answers is kept by its ledger; for a local one `rounds` keeps it, a few answers at a time.
    """

    complete: Callable[..., list[Completion]]  # a Generator's
    rounds: WrittenRounds | None
    seed: int
    on_written: Callable[[int], None]  # so many more chunks have answered
    extra: Mapping[Task, Mapping[str, Any]] = field(default_factory=dict)  # more arguments, by what is asked
    n_calls: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0

    def __call__(self, task: Task, conversations: Sequence[Conversation], max_new_tokens: int) -> list[Written]:
        """What the model writes without sampling, in the order of the conversations."""
        n_together = len(conversations) if self.rounds is None else KEPT_TOGETHER
        answers: list[Written] = []
        for start in range(0, len(conversations), n_together):
            some = conversations[start : start + n_together]
            found = self.rounds.find(some, self.seed) if self.rounds else None
            if found is None:
                found = self._round(task, some, max_new_tokens)
            elif task == "write":
                self.on_written(len(some))
            self.n_prompt_tokens += found.n_prompt_tokens
            self.n_completion_tokens += found.n_completion_tokens
            answers += map(Written, found.texts, found.finish_reasons)
        self.n_calls += len(answers)
        return answers

    def _round(self, task: Task, conversations: Sequence[Conversation], max_new_tokens: int) -> WrittenRound:
        completions = self.complete(
            conversations,
            max_new_tokens=max_new_tokens,
            temperature=0.0,
            seed=self.seed,
            batch_size=BATCH,
            on_done=self.on_written if task == "write" else None,
            **self.extra.get(task, {}),
        )
        written = WrittenRound(
            [completion.text for completion in completions],
            sum(completion.n_completion_tokens for completion in completions),
            sum(completion.n_prompt_tokens for completion in completions),
            [completion.finish_reason for completion in completions],
        )
        if self.rounds is not None:
            self.rounds.keep(conversations, self.seed, written)
        return written
