"""What stands in the context of a training question: what retrieval finds, some of it without the gold chunk, or the
gold chunk among near misses.

RAFT (arXiv 2403.10131, section 3): a share P of the questions has the chunk with the answer and distractors in its
context, the others have distractors alone, so that the model learns to pass over what does not help, and to fall back
on what it knows. RA-DIT (arXiv 2310.01352, section 2.2) takes the retriever's k nearest chunks as they are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from radit_job.rag.context import Context
from radit_job.records import Question

# found: what retrieval gives; left_out: the same without the gold chunks; among_misses: gold among near misses
Making = Literal["found", "left_out", "among_misses"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How training contexts are made."""

    k: int  # chunks that retrieval gives
    without_gold_share: float = 0.0  # of the questions with known gold
    distractors: int | None = None  # near misses beside the gold chunk, in drawn order; None: what retrieval finds
    seed: int = 0

    @property
    def is_as_found(self) -> bool:
        """Whether every context is what retrieval finds."""
        return self.without_gold_share == 0 and self.distractors is None

    @property
    def n_chunks(self) -> int:
        """Chunks of every context. One without gold has one more near miss in its place, as in RAFT."""
        return self.k if self.distractors is None else self.distractors + 1


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """One question's context, its chunks in the order in which they stand in the prompt."""

    context: Context
    making: Making
    gold_position: int | None  # 1-based, of the first gold chunk in it; None without one
    n_missing: int  # chunks that the corpus was too small for


def depth(questions: Sequence[Question], wanted: Wanted, n_chunks: int) -> int:
    """How many nearest chunks of each question are needed: what is left out is made up for by the next ones."""
    if wanted.is_as_found:
        return wanted.k
    most_gold = max((len(set(question.chunk_ids)) for question in questions), default=0)
    return max(wanted.k, min(n_chunks, max(wanted.k, wanted.n_chunks) + most_gold))


def draw_without_gold(questions: Sequence[Question], wanted: Wanted) -> frozenset[str]:
    """Ids of the questions that lose their gold chunks: a share of those that have some, whatever their order is."""
    known = [question.question_id for question in questions if question.chunk_ids]
    ranked = sorted(known, key=lambda name: (_random(wanted, "without_gold", name).random(), name))
    return frozenset(ranked[: round(wanted.without_gold_share * len(known))])


def training_contexts(
    questions: Sequence[Question], contexts: Sequence[Context], wanted: Wanted
) -> list[TrainingContext]:
    """Each question's training context; `contexts` are `depth` chunks deep, with gold.

    Distractors are the nearest chunks that are not gold. Of several gold chunks the nearest one stands among them.
    With distractors, questions without known gold have as many chunks as the others, and in drawn order like theirs:
    else the form of the context alone would tell the model which questions have no answer.
    """
    without_gold = draw_without_gold(questions, wanted)
    return [
        _training_context(question, context, wanted, question.question_id in without_gold)
        for question, context in zip(questions, contexts, strict=True)
    ]


def _training_context(question: Question, context: Context, wanted: Wanted, is_drawn: bool) -> TrainingContext:
    gold_ids = set(question.chunk_ids)
    making: Making = (
        "left_out" if is_drawn else "found" if wanted.distractors is None or not gold_ids else "among_misses"
    )
    found = list(zip(context.chunk_ids, context.scores, context.texts, strict=True))
    size = wanted.n_chunks
    if making == "found":
        chosen = found[:size]
    else:
        misses = [chunk for chunk in found if chunk[0] not in gold_ids]
        best = [(gold.chunk_id, gold.score, gold.text) for gold in context.gold[:1]] if making == "among_misses" else []
        chosen = [*best, *misses[: size - len(best)]]
    if wanted.distractors is not None:
        _random(wanted, "order", question.question_id).shuffle(chosen)
    made = Context(
        chunk_ids=tuple(chunk_id for chunk_id, _, _ in chosen),
        scores=tuple(score for _, score, _ in chosen),
        texts=tuple(text for _, _, text in chosen),
        gold_rank=context.gold_rank,
    )
    position = next((at for at, name in enumerate(made.chunk_ids, start=1) if name in gold_ids), None)
    return TrainingContext(made, making, position, size - len(chosen))


def figures(questions: Sequence[Question], made: Sequence[TrainingContext]) -> dict[str, Any]:
    """What the contexts hold, counted over the questions whose gold is known.

    n_without_gold is n_gold_left_out (drawn) and n_gold_missed (retrieval did not find it); n_with_distractors have
    their gold chunk among near misses; gold_positions counts where in its prompt the first gold chunk stands.
    """
    known = [row for question, row in zip(questions, made, strict=True) if question.chunk_ids]
    n_left_out = sum(row.making == "left_out" for row in known)
    n_missed = sum(row.making == "found" and row.gold_position is None for row in known)
    positions = Counter(row.gold_position for row in known if row.gold_position is not None)
    return {
        "n_without_gold": n_left_out + n_missed,
        "n_gold_left_out": n_left_out,
        "n_gold_missed": n_missed,
        "n_with_distractors": sum(row.making == "among_misses" for row in known),
        "gold_positions": {str(position): positions[position] for position in sorted(positions)},
    }


def _random(wanted: Wanted, purpose: str, question_id: str) -> random.Random:
    """Chance of a question's own, so that no other question can change what it gets."""
    return random.Random(f"{wanted.seed}/{purpose}/{question_id}")
