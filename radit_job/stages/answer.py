"""answer: what each arm says to the evaluation questions, and to a sample of the training questions."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from radit_job import observe
from radit_job.config.schema import ArmName
from radit_job.config.slices import AnswerSlice
from radit_job.errors import ConfigError, InputError
from radit_job.jobs import WHOLE, Shard
from radit_job.model_ref import ModelRef
from radit_job.models.base import Vectors
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_embedder, open_generator, tuned_ref, tuned_retriever_ref
from radit_job.rag.answer_summary import counters, warn_of_cut_answers, warn_of_dropped_chunks
from radit_job.rag.answering import NO_CONTEXT, ArmPrompts, Asked, Decoding, answer_all, builder_of
from radit_job.rag.context import Context, find_contexts
from radit_job.rag.prompts import Prompts
from radit_job.rag.sampling import sample_and_shots
from radit_job.records import (
    CLOSED_BOOK_ARMS,
    RETRIEVER_ARMS,
    TUNED_ARMS,
    Prediction,
    Question,
    Split,
    read_blocks,
    read_rows,
    write_rows,
)

# A block is at least so many questions and batches: its prompts are sorted by length, so that a batch wastes little on
# padding, and what they all begin with is computed once.
MIN_BLOCK_QUESTIONS = 32
BLOCK_BATCHES = 4
# A server gets a block's prompts at once, and most calls stand idle while its last ones are answered: with 1000
# questions and 8 calls of uneven length that adds 16 to 59 % to the time in blocks of 32, and 1 to 4 % in these.
SERVED_BLOCK_QUESTIONS = 512


@dataclass(frozen=True, slots=True)
class Block:
    """A run of questions for one arm: what is answered, written and kept as one file."""

    number: int
    arm: ArmName
    questions: slice

    @property
    def file_name(self) -> str:
        """Sorts by number: arms in their order, questions in theirs."""
        return f"{self.number:06d}-{self.arm}.jsonl"


def run(
    config: AnswerSlice,
    *,
    train_questions: Path,
    val_questions: Path,
    chunks: Path,
    embeddings: Path,
    lm: Path | None = None,
    retriever: Path | None = None,
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
    shard: Shard = WHOLE,
) -> dict[str, float]:
    """Read the questions, `chunks`, `embeddings`, the tuned `lm` and the tuned `retriever`; write `predictions`.

    One model is in memory at a time. A block that is done is kept in `scratch`, so a killed run goes on with the next.
    """
    _check_models(config.arms, has_lm=lm is not None, has_retriever=retriever is not None)
    train = list(read_rows(train_questions / "questions.jsonl", Question))
    val = list(read_rows(val_questions / "questions.jsonl", Question))
    sampled, shown = sample_and_shots(
        len(train), n_sample=config.train_sample, n_shots=config.answer.few_shot_examples, seed=config.seed
    )
    shots = [train[row] for row in shown]
    if "few_shot" in config.arms and not shots:
        raise InputError("the arm few_shot needs training questions, but there are none", where="evaluate.arms")
    questions: list[tuple[Split, Question]] = [("val", row) for row in val]
    questions += [("train", train[row]) for row in sampled]
    mine = [block for block in _blocks(config, len(questions)) if shard.takes(block.number)]
    pending = [block for block in mine if not (scratch / block.file_name).exists()]
    base_encoder, base_lm = config.embedder.ref(), config.lm.ref()
    tuned_encoder = tuned_retriever_ref(retriever, base_encoder) if retriever else None
    asked: dict[int, list[Asked]] = {}
    for encoder, blocks in _by_model(pending, RETRIEVER_ARMS, base_encoder, tuned_encoder):
        asked |= _with_contexts(config, encoder, questions, blocks, chunks, embeddings, ledger)
    for model, blocks in _by_model(pending, TUNED_ARMS, base_lm, tuned_ref(lm, base_lm) if lm else None):
        _answer_blocks(config, model, blocks, shots, asked, scratch, ledger)
    folder = out / "predictions"
    folder.mkdir()
    for block in mine:
        shutil.copyfile(scratch / block.file_name, folder / block.file_name)
    answers = partial(read_blocks, folder, "*.jsonl", Prediction)  # streamed, each time anew
    warn_of_dropped_chunks(answers(), k=config.retrieval.k)
    warn_of_cut_answers(answers(), max_new_tokens=config.answer.max_new_tokens)
    return counters(answers(), context=config.retrieval.context)


def _check_models(arms: Sequence[ArmName], *, has_lm: bool, has_retriever: bool) -> None:
    """Raise ConfigError where an arm has no tuned model to answer with, or no tuned retriever to find its chunks."""
    for tuned_arms, is_there, lacking in (
        (TUNED_ARMS, has_lm, "model to answer"),
        (RETRIEVER_ARMS, has_retriever, "retriever to find its chunks"),
    ):
        if not is_there and (named := tuned_arms & set(arms)):
            raise ConfigError(f"{' and '.join(sorted(named))}: there is no tuned {lacking}", where="evaluate.arms")


def _by_model(
    blocks: Sequence[Block], tuned_arms: frozenset[str], base: ModelRef, tuned: ModelRef | None
) -> Iterator[tuple[ModelRef, list[Block]]]:
    """Each model with the blocks of its arms, the untuned one first."""
    yield base, [block for block in blocks if block.arm not in tuned_arms]
    if tuned is not None:
        yield tuned, [block for block in blocks if block.arm in tuned_arms]


def _blocks(config: AnswerSlice, n_questions: int) -> list[Block]:
    """Every arm's questions, cut so that a batch of similar lengths can be found in each block."""
    size = max(MIN_BLOCK_QUESTIONS, BLOCK_BATCHES * config.answer.batch_size)
    if config.lm.provider == "openai":
        size = SERVED_BLOCK_QUESTIONS
    cuts = [slice(start, min(start + size, n_questions)) for start in range(0, n_questions, size)]
    pairs = itertools.product(config.arms, cuts)
    return [Block(number, arm, questions) for number, (arm, questions) in enumerate(pairs)]


def _with_contexts(
    config: AnswerSlice,
    encoder: ModelRef,
    questions: Sequence[tuple[Split, Question]],
    blocks: Sequence[Block],
    chunks: Path,
    embeddings: Path,
    ledger: Ledger | None,
) -> dict[int, list[Asked]]:
    """By the block's number, its questions with what the arm reads, as this encoder of questions finds it."""
    read = sorted({(b.questions.start, b.questions.stop) for b in blocks if b.arm not in CLOSED_BOOK_ARMS})
    contexts: dict[int, Context] = {}
    if read:
        embedder = open_embedder(encoder, ledger)

        def embed(texts: Sequence[str], on_done: Callable[[int], None]) -> Vectors:
            # Cut by cut: which questions share a batch, and so the last bit of a vector, must not depend on the shard,
            # nor what a paid server is asked on what an earlier try has done.
            rest = iter(texts)
            parts = [list(itertools.islice(rest, stop - start)) for start, stop in read]
            return np.concatenate([embedder.embed_queries(part, on_done=on_done) for part in parts])

        numbers = [number for start, stop in read for number in range(start, stop)]
        rows = [questions[number][1] for number in numbers]
        found = find_contexts(rows, embed, embeddings=embeddings, chunks=chunks, k=config.retrieval.k)
        contexts = dict(zip(numbers, found, strict=True))
    return {
        block.number: [
            Asked(*questions[number], contexts.get(number, NO_CONTEXT))
            for number in range(block.questions.start, block.questions.stop)
        ]
        for block in blocks
    }


def _answer_blocks(
    config: AnswerSlice,
    model: ModelRef,
    blocks: Sequence[Block],
    shots: Sequence[Question],
    asked: dict[int, list[Asked]],
    scratch: Path,
    ledger: Ledger | None,
) -> None:
    """Answer the blocks of one model into scratch; the model is freed when this returns."""
    if not blocks:
        return
    lm = open_generator(model, ledger)
    retrieval = config.retrieval
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    for name, group in itertools.groupby(blocks, key=lambda block: block.arm):
        of_arm = list(group)
        arm = ArmPrompts(
            lm,
            name,
            builder_of(name, prompts, shots),
            max_new_tokens=config.answer.max_new_tokens,
            context=retrieval.context,
            retriever_temperature=config.retrieval.temperature,
            measures_references=model.provider != "openai" or model.can_score,
        )
        n_questions = sum(len(asked[block.number]) for block in of_arm)
        n_answers = n_questions * (retrieval.k if arm.form == "separate" else 1)
        with observe.progress(f"answering: {name}", total=n_answers, unit="answers") as bar:
            for block in of_arm:
                unfinished = scratch / f"{block.file_name}.partial"
                decoding = Decoding(
                    max_new_tokens=arm.max_new_tokens,
                    batch_size=config.answer.batch_size,
                    temperature=config.answer.temperature,
                    seed=config.seed + block.questions.start,  # else the same draws in each block
                    on_done=bar.advance,
                )
                write_rows(unfinished, answer_all(arm, asked[block.number], decoding))
                unfinished.replace(scratch / block.file_name)
