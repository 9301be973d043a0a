"""score: how likely the base LM finds each training answer after each of the question's candidate chunks."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radit_job import observe
from radit_job.config.fields import result_values
from radit_job.config.slices import ScoreSlice
from radit_job.errors import InputError
from radit_job.jobs import WHOLE, Shard
from radit_job.models.base import Conversation, ScoringLM, Vectors
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_embedder, open_scorer
from radit_job.rag.context import Context, find_contexts
from radit_job.rag.grouping import group_names
from radit_job.rag.prompts import Prompts
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import CandidateScores, Question, read_rows, write_rows

# What a kill can cost, and what is sorted by length and by chunk: of more questions more ask about the same chunk.
BLOCK_QUESTIONS = 64
MIN_CANDIDATES = 2  # among fewer there is no preference


@dataclass(frozen=True, slots=True)
class Block:
    """A run of training questions: what is scored, written and kept as one file."""

    number: int
    questions: slice

    @property
    def file_name(self) -> str:
        """Sorts as the questions stand."""
        return f"{self.number:06d}.jsonl"

    @property
    def figures_name(self) -> str:
        """What it took, beside the rows in scratch."""
        return f"{self.number:06d}.figures.json"


@dataclass(frozen=True, slots=True)
class Candidates:
    """One question's candidates that the model can read, as prompts."""

    question: Question
    group: str
    context: Context
    kept: tuple[int, ...]  # which chunks of the context
    conversations: tuple[Conversation, ...]  # one for each of them

    @property
    def is_usable(self) -> bool:
        """Whether there is something to prefer."""
        return len(self.kept) >= MIN_CANDIDATES


def run(
    config: ScoreSlice,
    *,
    train_questions: Path,
    chunks: Path,
    embeddings: Path,
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
    shard: Shard = WHOLE,
) -> dict[str, float]:
    """Read `train_questions`, `chunks`, `embeddings`; write `lm_scores/<block>.jsonl` (CandidateScores), score.json.

    A block that is done is kept in `scratch`, so a killed run goes on with the next. InputError where there are fewer
    than two chunks, and where no question is left with two candidates that the model can read.
    """
    questions = _answered(read_rows(train_questions / "questions.jsonl", Question))
    k = _n_candidates(config, embeddings)
    cuts = [slice(start, start + BLOCK_QUESTIONS) for start in range(0, len(questions), BLOCK_QUESTIONS)]
    mine = [Block(number, cut) for number, cut in enumerate(cuts) if shard.takes(number)]
    pending = [block for block in mine if not (scratch / block.file_name).exists()]
    if pending:
        contexts = _contexts(config, questions, pending, chunks, embeddings, k, ledger)
        _score_blocks(config, questions, pending, contexts, scratch, ledger)
    folder = out / "lm_scores"
    folder.mkdir()
    for block in mine:
        shutil.copyfile(scratch / block.file_name, folder / block.file_name)
    if shard.takes(0):
        facts = {"n_questions": len(questions), "n_candidates": k, "lm": result_values(config.lm)}
        (folder / "score.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    counters = _counters(scratch, mine)
    _tell_of_lost(counters)
    if shard == WHOLE and not counters["n_questions"]:
        raise InputError(
            "no training question has two candidate chunks that the model can read with the question and its answer",
            where="models.lm",
            todo="Lower chunking.size_tokens, or take a model that reads more.",
        )
    return counters


def _answered(questions: Iterable[Question]) -> list[Question]:
    """Without the unanswerable ones: a refusal is likeliest after the chunks that have nothing to do with them."""
    return [question for question in questions if question.chunk_ids or not question.passage_chunk_ids]


def _n_candidates(config: ScoreSlice, embeddings: Path) -> int:
    n_chunks = len(VectorIndex.open(embeddings).chunk_ids)
    if n_chunks < MIN_CANDIDATES:
        raise InputError(
            "the corpus is one chunk: there is nothing among which a retriever could choose",
            todo="Add documents, or lower chunking.size_tokens.",
        )
    return min(config.candidates, n_chunks)


def _contexts(
    config: ScoreSlice,
    questions: Sequence[Question],
    blocks: Sequence[Block],
    chunks: Path,
    embeddings: Path,
    k: int,
    ledger: Ledger | None,
) -> dict[int, list[Context]]:
    """By block number, the candidates of its questions."""
    embedder = open_embedder(config.embedder.ref(), ledger)
    sizes = [len(questions[block.questions]) for block in blocks]

    def embed(texts: Sequence[str], on_done: Callable[[int], None]) -> Vectors:
        # Block by block: which questions share a batch, and so the last bit of a vector, must not depend on the shard,
        # nor what a paid server is asked on what an earlier try has done.
        rest = iter(texts)
        parts = [list(itertools.islice(rest, size)) for size in sizes]
        return np.concatenate([embedder.embed_queries(part, on_done=on_done) for part in parts])

    wanted = [question for block in blocks for question in questions[block.questions]]
    found = iter(find_contexts(wanted, embed, embeddings=embeddings, chunks=chunks, k=k))
    return {block.number: list(itertools.islice(found, size)) for block, size in zip(blocks, sizes, strict=True)}


def _score_blocks(
    config: ScoreSlice,
    questions: Sequence[Question],
    blocks: Sequence[Block],
    contexts: dict[int, list[Context]],
    scratch: Path,
    ledger: Ledger | None,
) -> None:
    """Score the blocks into scratch; the model is freed when this returns."""
    lm = open_scorer(config.lm.ref(), ledger)
    candidates = _Reader(config, lm)
    groups = group_names(questions)
    n_pairs = sum(len(context.chunk_ids) for found in contexts.values() for context in found)
    with observe.progress("scoring candidates", total=n_pairs, unit="pairs") as bar:
        for block in blocks:
            of_block = questions[block.questions], groups[block.questions], contexts[block.number]
            asked = [candidates.of(*item) for item in zip(*of_block, strict=True)]
            rows, figures = _score_block(lm, asked, config.batch_size, bar)
            (scratch / block.figures_name).write_text(json.dumps(figures), encoding="utf-8")
            partial = scratch / f"{block.file_name}.partial"
            write_rows(partial, rows)
            partial.replace(scratch / block.file_name)  # the mark that the block is done, so it comes last


class _Reader:
    """Which candidates the model can read, as the stage `answer` gives it one chunk."""

    def __init__(self, config: ScoreSlice, lm: ScoringLM) -> None:
        self._lm = lm
        self._prompts = Prompts(config.system_message, config.template, closed_book_template="")
        self._n_more = 1 if config.lm.provider == "openai" else 0  # the new token without which no server answers

    def of(self, question: Question, group: str, context: Context) -> Candidates:
        """The question's candidates that fit the model together with the answer."""
        conversations = [self._prompts.with_context(question.question, [text]) for text in context.texts]
        kept = tuple(row for row, conversation in enumerate(conversations) if self._fits(conversation, question))
        return Candidates(question, group, context, kept, tuple(conversations[row] for row in kept))

    def _fits(self, conversation: Conversation, question: Question) -> bool:
        limit = self._lm.context_tokens
        if limit is None:
            return True
        n_read = self._lm.n_prompt_tokens(conversation) + self._lm.n_answer_tokens(question.answer)
        return n_read + self._n_more <= limit


def _score_block(
    lm: ScoringLM, asked: Sequence[Candidates], batch_size: int, bar: observe.Progress
) -> tuple[list[CandidateScores], dict[str, float]]:
    """The block's rows, and what it took."""
    usable = [item for item in asked if item.is_usable]
    bar.advance(sum(len(item.context.chunk_ids) for item in asked) - sum(len(item.kept) for item in usable))
    conversations = [conversation for item in usable for conversation in item.conversations]
    answers = [item.question.answer for item in usable for _ in item.kept]
    began_s = time.monotonic()
    scores = iter(lm.score(conversations, answers, batch_size=batch_size, on_done=bar.advance))
    scoring_s = time.monotonic() - began_s
    figures: dict[str, float] = {
        "n_questions": len(usable),
        "n_dropped": len(asked) - len(usable),
        "n_pairs": len(answers),
        "n_too_long": sum(len(item.context.chunk_ids) - len(item.kept) for item in asked),
        "prompt_tokens": sum(map(lm.n_prompt_tokens, conversations)),
        "answer_tokens": sum(map(lm.n_answer_tokens, answers)),
        "scoring_s": scoring_s,
    }
    return [_row(item, [next(scores) for _ in item.kept]) for item in usable], figures


def _row(item: Candidates, scores: Sequence[Any]) -> CandidateScores:
    return CandidateScores(
        question_id=item.question.question_id,
        question=item.question.question,
        group=item.group,
        gold_chunk_ids=item.question.chunk_ids,
        chunk_ids=tuple(item.context.chunk_ids[row] for row in item.kept),
        similarities=tuple(item.context.scores[row] for row in item.kept),
        log_probability_nats=tuple(round(score.log_probability_nats, 6) for score in scores),
        n_answer_tokens=scores[0].n_tokens,
    )


def _counters(scratch: Path, blocks: Sequence[Block]) -> dict[str, float]:
    """All blocks together, those of an earlier try included."""
    names = ("n_questions", "n_dropped", "n_pairs", "n_too_long", "prompt_tokens", "answer_tokens", "scoring_s")
    totals: Counter[str] = Counter(dict.fromkeys(names, 0))
    for block in blocks:
        totals.update(json.loads((scratch / block.figures_name).read_text(encoding="utf-8")))
    seconds = totals["scoring_s"]
    return {**totals, "pairs_per_s": round(totals["n_pairs"] / seconds, 2) if seconds else 0.0}


def _tell_of_lost(counters: dict[str, float]) -> None:
    if n_lost := int(counters["n_too_long"]):
        observe.warn(
            f"{n_lost} candidates are left out, for the model cannot read them with the question and its answer",
            n_candidates=n_lost,
        )
    if n_dropped := int(counters["n_dropped"]):
        observe.warn(
            f"{n_dropped} training questions are left out: fewer than {MIN_CANDIDATES} of their candidates can be read",
            n_questions=n_dropped,
        )
