"""answer: what each arm says to the evaluation questions, and to a sample of the training questions."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from radit_job.models.loading import open_embedder, open_generator, tuned_ref
from radit_job.rag.answering import NO_CONTEXT, ArmPrompts, Asked, builder_of, to_prediction
from radit_job.rag.context import find_contexts
from radit_job.rag.prompts import Prompts
from radit_job.rag.sampling import sample_and_shots
from radit_job.records import (
    CLOSED_BOOK_ARMS,
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
MANY_CUT = 0.2  # of an arm's answers, by the limit on their length


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
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
    shard: Shard = WHOLE,
) -> dict[str, float]:
    """Read the questions, `chunks`, `embeddings` and the tuned `lm`; write `predictions`.

    One model is in memory at a time. A block that is done is kept in `scratch`, so a killed run goes on with the next.
    """
    if lm is None and (tuned_arms := TUNED_ARMS & set(config.arms)):
        raise ConfigError(
            f"{' and '.join(sorted(tuned_arms))}: there is no tuned model to answer", where="evaluate.arms"
        )
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
    asked = _with_contexts(config, questions, pending, chunks, embeddings, ledger)
    base = config.lm.ref()
    untuned = [block for block in pending if block.arm not in TUNED_ARMS]
    _answer_blocks(config, base, untuned, shots, asked, scratch, ledger)
    if lm is not None:
        tuned = [block for block in pending if block.arm in TUNED_ARMS]
        _answer_blocks(config, tuned_ref(lm, base), tuned, shots, asked, scratch, ledger)
    folder = out / "predictions"
    folder.mkdir()
    for block in mine:
        shutil.copyfile(scratch / block.file_name, folder / block.file_name)
    _warn_of_dropped_chunks(config, folder)
    _warn_of_cut_answers(config, folder)
    return _counters(config, folder)


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
    questions: Sequence[tuple[Split, Question]],
    blocks: Sequence[Block],
    chunks: Path,
    embeddings: Path,
    ledger: Ledger | None,
) -> dict[int, list[Asked]]:
    """By the number of their first question, the questions of each block's cut, with what the arms read."""
    cuts = sorted({(block.questions.start, block.questions.stop) for block in blocks})
    read = sorted({(b.questions.start, b.questions.stop) for b in blocks if b.arm not in CLOSED_BOOK_ARMS})
    contexts = dict.fromkeys(range(len(questions)), NO_CONTEXT)
    if read:
        embedder = open_embedder(config.embedder.ref(), ledger)

        def embed(texts: Sequence[str], on_done: Callable[[int], None]) -> Vectors:
            # Cut by cut: which questions share a batch, and so the last bit of a vector, must not depend on the shard,
            # nor what a paid server is asked on what an earlier try has done.
            rest = iter(texts)
            parts = [list(itertools.islice(rest, stop - start)) for start, stop in read]
            return np.concatenate([embedder.embed_queries(part, on_done=on_done) for part in parts])

        numbers = [number for start, stop in read for number in range(start, stop)]
        rows = [questions[number][1] for number in numbers]
        found = find_contexts(rows, embed, embeddings=embeddings, chunks=chunks, k=config.retrieval.k)
        contexts |= dict(zip(numbers, found, strict=True))
    return {
        start: [Asked(*questions[number], contexts[number]) for number in range(start, stop)] for start, stop in cuts
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
            is_separate=retrieval.context == "separate" and name not in CLOSED_BOOK_ARMS,
            measures_references=model.provider != "openai" or model.can_score,
        )
        n_questions = sum(len(asked[block.questions.start]) for block in of_arm)
        n_prompts = n_questions * (retrieval.k if arm.is_separate else 1)
        with observe.progress(f"answering: {name}", total=n_prompts, unit="prompts") as bar:
            for block in of_arm:
                partial = scratch / f"{block.file_name}.partial"
                write_rows(partial, _answer_block(config, arm, block, asked[block.questions.start], bar))
                partial.replace(scratch / block.file_name)


def _answer_block(
    config: AnswerSlice,
    arm: ArmPrompts,
    block: Block,
    asked: Sequence[Asked],
    bar: observe.Progress,
) -> Iterator[Prediction]:
    prompts = [arm.of(item) for item in asked]
    conversations = [prompt.conversation for mine in prompts for prompt in mine]
    references = [item.question.answer for item, mine in zip(asked, prompts, strict=True) for _ in mine]
    answered = arm.lm.answer(
        conversations,
        references if arm.measures_references else None,
        max_new_tokens=config.answer.max_new_tokens,
        batch_size=config.answer.batch_size,
        temperature=config.answer.temperature,
        seed=config.seed + block.questions.start,  # else the same draws in each block
        on_done=bar.advance,
    )
    remaining = iter(answered)
    for item, mine in zip(asked, prompts, strict=True):
        error = None if mine else arm.why_none(item)
        mine_answered = [next(remaining) for _ in mine]
        yield to_prediction(
            block.arm, item, mine, mine_answered, max_new_tokens=config.answer.max_new_tokens, error=error
        )


def _warn_of_dropped_chunks(config: AnswerSlice, folder: Path) -> None:
    n_questions: Counter[str] = Counter()
    n_short: Counter[str] = Counter()
    for row in read_blocks(folder, "*.jsonl", Prediction):
        n_questions[row.arm] += 1
        n_short[row.arm] += row.arm not in CLOSED_BOOK_ARMS and len(row.chunk_ids) < config.retrieval.k
    for arm, count in n_short.items():
        if count:
            observe.warn(
                f"{arm}: {count} of {n_questions[arm]} questions lost chunks, for the model cannot read them all",
                arm=arm,
                n_questions=count,
            )


def _warn_of_cut_answers(config: AnswerSlice, folder: Path) -> None:
    n_answered: Counter[str] = Counter()
    n_cut: Counter[str] = Counter()
    n_empty: Counter[str] = Counter()
    for row in read_blocks(folder, "*.jsonl", Prediction):
        n_answered[row.arm] += row.finish_reason != "error"
        n_cut[row.arm] += row.finish_reason == "length"
        n_empty[row.arm] += row.finish_reason == "length" and row.error is not None
    for arm, count in n_cut.items():
        if count > MANY_CUT * n_answered[arm]:
            limit = f"the limit of {config.answer.max_new_tokens} tokens (answer.max_new_tokens)"
            without_text = f", {n_empty[arm]} of them before any text came" if n_empty[arm] else ""
            observe.warn(
                f"{arm}: {count} of {n_answered[arm]} answers were cut at {limit}{without_text}", arm=arm, n_cut=count
            )


def _counters(config: AnswerSlice, folder: Path) -> dict[str, float]:
    counters = {"n_predictions": 0, "n_errors": 0, "prompt_tokens": 0, "completion_tokens": 0, "llm_calls": 0}
    for row in read_blocks(folder, "*.jsonl", Prediction):
        n_prompts = len(row.chunk_ids) if config.retrieval.context == "separate" and row.chunk_ids else 1
        counters["n_predictions"] += 1
        counters["n_errors"] += row.error is not None
        counters["prompt_tokens"] += row.n_prompt_tokens
        counters["completion_tokens"] += row.n_completion_tokens
        counters["llm_calls"] += 0 if row.finish_reason == "error" else n_prompts
    return dict(counters)
