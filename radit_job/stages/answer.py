"""answer: what each arm says to the evaluation questions, and to a sample of the training questions."""

from __future__ import annotations

import itertools
import math
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
from radit_job.models.base import Answered, AnsweringLM, Conversation, Vectors
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_embedder, open_generator, tuned_ref
from radit_job.rag.context import Context, find_contexts
from radit_job.rag.prompts import Prompts
from radit_job.rag.sampling import sample_and_shots
from radit_job.rag.voting import mixture_log_probability, retrieval_weights, vote
from radit_job.records import Prediction, Question, Split, read_blocks, read_rows, write_rows

# A block is at least so many questions and batches: its prompts are sorted by length, so that a batch wastes little on
# padding, and what they all begin with is computed once.
MIN_BLOCK_QUESTIONS = 32
BLOCK_BATCHES = 4
TUNED_ARMS = {"lm", "lm_closed_book"}
NO_CONTEXT = Context(chunk_ids=(), scores=(), texts=(), gold_rank=None)


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
    prompts = Prompts(config.retrieval.system_message, config.retrieval.template, config.retrieval.closed_book_template)
    builders = _builders(prompts, shots)
    base = config.lm.ref()
    untuned = [block for block in pending if block.arm not in TUNED_ARMS]
    _answer_blocks(config, base, untuned, builders, asked, scratch, ledger)
    if lm is not None:
        tuned = [block for block in pending if block.arm in TUNED_ARMS]
        _answer_blocks(config, tuned_ref(lm, base), tuned, builders, asked, scratch, ledger)
    folder = out / "predictions"
    folder.mkdir()
    for block in mine:
        shutil.copyfile(scratch / block.file_name, folder / block.file_name)
    _warn_of_dropped_chunks(config, folder)
    return _counters(config, folder)


def _blocks(config: AnswerSlice, n_questions: int) -> list[Block]:
    """Every arm's questions, cut so that a batch of similar lengths can be found in each block."""
    size = max(MIN_BLOCK_QUESTIONS, BLOCK_BATCHES * config.answer.batch_size)
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
    """By the number of their first question, the questions of each block's cut."""
    cuts = sorted({(block.questions.start, block.questions.stop) for block in blocks})
    wanted = [row for start, stop in cuts for row in questions[start:stop]]
    contexts = [NO_CONTEXT] * len(wanted)
    if wanted and set(config.arms) != {"closed_book"}:
        model = config.embedder
        embedder = open_embedder(model.ref(), ledger)

        def embed(texts: Sequence[str], on_done: Callable[[int], None]) -> Vectors:
            # Cut by cut: which questions share a batch, and so the last bit of a vector, must not depend on the shard.
            lengths = [stop - start for start, stop in cuts]
            ends = list(itertools.accumulate(lengths))
            parts = [texts[end - length : end] for end, length in zip(ends, lengths, strict=True)]
            return np.concatenate([embedder.embed_queries(part, on_done=on_done) for part in parts])

        rows = [question for _, question in wanted]
        contexts = find_contexts(rows, embed, embeddings=embeddings, chunks=chunks, k=config.retrieval.k)
    asked = (Asked(split, row, context) for (split, row), context in zip(wanted, contexts, strict=True))
    return {start: list(itertools.islice(asked, stop - start)) for start, stop in cuts}


# (question, texts of its chunks) -> conversation
Builder = Callable[[str, Sequence[str]], Conversation]


def _builders(prompts: Prompts, shots: Sequence[Question]) -> dict[ArmName, Builder]:
    pairs = [(row.question, row.answer) for row in shots]
    return {
        "closed_book": lambda question, texts: prompts.closed_book(question),
        "base": prompts.with_context,
        "few_shot": lambda question, texts: prompts.few_shot(pairs, question, texts),
        "lm": prompts.with_context,
    }


def _answer_blocks(
    config: AnswerSlice,
    model: ModelRef,
    blocks: Sequence[Block],
    builders: dict[ArmName, Builder],
    asked: dict[int, list[Asked]],
    scratch: Path,
    ledger: Ledger | None,
) -> None:
    """Answer the blocks of one model into scratch; the model is freed when this returns."""
    if not blocks:
        return
    lm = open_generator(model, ledger)
    for arm, group in itertools.groupby(blocks, key=lambda block: block.arm):
        of_arm = list(group)
        is_separate = config.retrieval.context == "separate" and arm != "closed_book"
        n_prompts = sum(len(asked[block.questions.start]) for block in of_arm) * (
            config.retrieval.k if is_separate else 1
        )
        with observe.progress(f"answering: {arm}", total=n_prompts, unit="prompts") as bar:
            for block in of_arm:
                partial = scratch / f"{block.file_name}.partial"
                write_rows(partial, _answer_block(config, lm, block, builders[arm], asked[block.questions.start], bar))
                partial.replace(scratch / block.file_name)


def _answer_block(
    config: AnswerSlice,
    lm: AnsweringLM,
    block: Block,
    build: Builder,
    asked: Sequence[Asked],
    bar: observe.Progress,
) -> Iterator[Prediction]:
    separate = config.retrieval.context == "separate"
    prompts = [_prompts(lm, block.arm, build, item, config.answer.max_new_tokens, separate=separate) for item in asked]
    conversations = [prompt.conversation for mine in prompts for prompt in mine]
    references = [item.question.answer for item, mine in zip(asked, prompts, strict=True) for _ in mine]
    answered = lm.answer(
        conversations,
        references,
        max_new_tokens=config.answer.max_new_tokens,
        batch_size=config.answer.batch_size,
        temperature=config.answer.temperature,
        seed=config.seed + block.questions.start,  # else the same draws in each block
        on_done=bar.advance,
    )
    remaining = iter(answered)
    for item, mine in zip(asked, prompts, strict=True):
        error = None if mine else _too_long(lm, build, item, config.answer.max_new_tokens, separate=separate)
        yield _prediction(block.arm, item, mine, [next(remaining) for _ in mine], error)


def _prompts(
    lm: AnsweringLM, arm: ArmName, build: Builder, item: Asked, max_new_tokens: int, *, separate: bool
) -> list[Prompt]:
    """The question's prompts, each short enough to leave room for the answer; none if that cannot be done.

    Joined: one prompt; the chunks that retrieval ranks last are left out until it fits. Separate: one prompt per chunk.
    """
    n_answer = max(max_new_tokens, lm.n_answer_tokens(item.question.answer))
    room = math.inf if lm.context_tokens is None else lm.context_tokens - n_answer
    n_chunks = 0 if arm == "closed_book" else len(item.context.texts)

    def prompt(chunks: slice) -> Prompt | None:
        conversation = build(item.question.question, item.context.texts[chunks])
        return Prompt(conversation, chunks) if lm.n_prompt_tokens(conversation) <= room else None

    if separate and n_chunks:
        return [found for row in range(n_chunks) if (found := prompt(slice(row, row + 1)))]
    shorter_and_shorter = (prompt(slice(0, n)) for n in range(n_chunks, -1, -1))
    return list(itertools.islice(filter(None, shorter_and_shorter), 1))


def _too_long(lm: AnsweringLM, build: Builder, item: Asked, max_new_tokens: int, *, separate: bool) -> str:
    """Why `_prompts` found none: the question itself, or only the reference, whose probability is to be measured."""
    least_context = item.context.texts[:1] if separate else ()
    n_prompt = lm.n_prompt_tokens(build(item.question.question, least_context))
    limit = f"the {lm.context_tokens} tokens that the model reads"
    if lm.context_tokens is not None and n_prompt + max_new_tokens > lm.context_tokens:
        return f"the question ({n_prompt} tokens as a prompt) leaves no room for an answer in {limit}"
    n_reference = lm.n_answer_tokens(item.question.answer)
    return f"the reference answer ({n_reference} tokens) does not fit behind the question in {limit}"


def _warn_of_dropped_chunks(config: AnswerSlice, folder: Path) -> None:
    n_questions: Counter[str] = Counter()
    n_short: Counter[str] = Counter()
    for row in read_blocks(folder, "*.jsonl", Prediction):
        n_questions[row.arm] += 1
        n_short[row.arm] += row.arm != "closed_book" and len(row.chunk_ids) < config.retrieval.k
    for arm, count in n_short.items():
        if count:
            observe.warn(
                f"{arm}: {count} of {n_questions[arm]} questions lost chunks, for the model cannot read them all",
                arm=arm,
                n_questions=count,
            )


def _prediction(
    arm: ArmName, item: Asked, prompts: Sequence[Prompt], answered: Sequence[Answered], error: str | None
) -> Prediction:
    question, context = item.question, item.context
    used = [row for prompt in prompts for row in range(len(context.scores))[prompt.chunks]]
    best, nats_per_token = _choose(context, prompts, answered) if answered else (None, None)
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
        gold_rank=None if arm == "closed_book" else context.gold_rank,
        n_prompt_tokens=sum(item.completion.n_prompt_tokens for item in answered),
        n_completion_tokens=sum(item.completion.n_completion_tokens for item in answered),
        finish_reason=best.completion.finish_reason if best else "error",
        answer_nats_per_token=nats_per_token,
        error=error,
    )


def _choose(context: Context, prompts: Sequence[Prompt], answered: Sequence[Answered]) -> tuple[Answered, float | None]:
    """The answer that counts, and the reference's mean negative log-probability in nats per token."""
    weights = [1.0]
    if len(answered) > 1:
        weights = retrieval_weights([context.scores[prompt.chunks][0] for prompt in prompts])
    best = answered[vote([item.completion.text for item in answered], weights)]
    references = [item.reference for item in answered if item.reference is not None]
    if not references:
        return best, None
    total = mixture_log_probability([reference.log_probability_nats for reference in references], weights)
    return best, round(-total / references[0].n_tokens, 6)


def _counters(config: AnswerSlice, folder: Path) -> dict[str, float]:
    counters = {"n_predictions": 0, "n_errors": 0, "prompt_tokens": 0, "completion_tokens": 0, "llm_calls": 0}
    for row in read_blocks(folder, "*.jsonl", Prediction):
        n_prompts = len(row.chunk_ids) if config.retrieval.context == "separate" and row.chunk_ids else 1
        counters["n_predictions"] += 1
        counters["n_errors"] += row.error is not None
        counters["prompt_tokens"] += row.n_prompt_tokens
        counters["completion_tokens"] += row.n_completion_tokens
        counters["llm_calls"] += 0 if row.error else n_prompts
    return dict(counters)
