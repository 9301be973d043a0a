"""Training examples: which are held out, and how they become token ids of at most a given number.

A long one is cut without losing the question or the answer, or else it is dropped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from radit_job import observe
from radit_job.errors import InputError
from radit_job.models.chat import ChatFormat
from radit_job.records import CandidateScores, Example, Message

Grouped = TypeVar("Grouped", Example, CandidateScores)

MIN_END_TOKENS = 96  # what a cut leaves at either end of the user's message: the question stands at one of them
GAP = "\n[...]\n"  # shows where something was cut


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One conversation; the loss is taken on `ids[n_prompt_tokens:]`, the answer and its end-of-turn token."""

    ids: tuple[int, ...]
    n_prompt_tokens: int

    @property
    def n_answer_tokens(self) -> int:
        """How many tokens are learnt."""
        return len(self.ids) - self.n_prompt_tokens


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """All examples of one side, and what became of the long ones."""

    examples: tuple[EncodedExample, ...]
    n_truncated: int  # lost a part of their context
    n_dropped: int  # could not be cut without touching the question or the answer


def hold_out(rows: Sequence[Grouped], share: float, seed: int) -> tuple[list[Grouped], list[Grouped]]:
    """Rows to train on and held-out ones: whole groups, so that no gold chunk stands on both sides.

    `share` of the groups (rounded, at least one if it is above 0 and there are two) is drawn with the seed.
    """
    groups = sorted({row.group for row in rows})
    n_held_out = round(len(groups) * share)
    if share > 0 and len(groups) > 1:
        n_held_out = min(max(1, n_held_out), len(groups) - 1)
    held_out = set(random.Random(seed).sample(groups, n_held_out))
    return [row for row in rows if row.group not in held_out], [row for row in rows if row.group in held_out]


def encode_examples(chat: ChatFormat, rows: Sequence[Example], max_tokens: int) -> EncodedSet:
    """Encode examples, whose conversations end with the assistant's turn; says how many were cut or dropped.

    InputError if none of them fits `max_tokens`.
    """
    examples = []
    n_truncated = 0
    for row in rows:
        cut = fit(chat, row, max_tokens)
        if cut is None:
            continue
        n_truncated += cut != row.messages
        examples.append(_encode(chat, cut))
    n_dropped = len(rows) - len(examples)
    if rows and not examples:
        raise InputError(
            f"no training example fits {max_tokens} tokens without cutting its question or its answer",
            todo="raise finetune_lm.max_tokens, as far as the model reads",
        )
    if n_truncated or n_dropped:
        observe.warn(
            f"{n_truncated} of {len(rows)} examples lost a part of their context to fit {max_tokens} tokens, "
            f"and {n_dropped} were dropped because their question or answer is too long",
            n_truncated=n_truncated,
            n_dropped=n_dropped,
        )
    return EncodedSet(tuple(examples), n_truncated, n_dropped)


def fit(chat: ChatFormat, example: Example, max_tokens: int) -> tuple[Message, ...] | None:
    """The conversation with the middle of its longest user message cut out until it fits; None if that is impossible.

    The middle goes because a template puts the question before or behind the context: an equal part of either end
    stays, at least MIN_END_TOKENS of it, and the whole question must be in what stays.
    """
    messages = example.messages
    at = max(
        (i for i, message in enumerate(messages) if message.role == "user"), key=lambda i: len(messages[i].content)
    )
    spans = chat.token_spans(messages[at].content)
    n_kept = len(spans)
    cut = messages
    while (excess := len(_encode(chat, cut).ids) - max_tokens) > 0:
        n_kept -= excess if cut is not messages else excess + len(chat.text_ids(GAP))
        if n_kept < 2 * MIN_END_TOKENS:
            return None
        cut = (*messages[:at], _without_middle(messages[at], spans, n_kept), *messages[at + 1 :])
    return cut if cut is messages or example.question in cut[at].content else None


def _without_middle(message: Message, spans: list[tuple[int, int]], n_kept: int) -> Message:
    """The message with only its first and last `n_kept / 2` tokens; `spans` are the tokens' character offsets."""
    head_end = spans[n_kept // 2 - 1][1]
    tail_start = spans[len(spans) - (n_kept - n_kept // 2)][0]
    return replace(message, content=message.content[:head_end] + GAP + message.content[tail_start:])


def _encode(chat: ChatFormat, conversation: Sequence[Message]) -> EncodedExample:
    prompt = chat.prompt_ids(conversation[:-1])
    return EncodedExample((*prompt, *chat.answer_ids(conversation[-1].content)), len(prompt))
