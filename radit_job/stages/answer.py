"""answer: what each arm says to the evaluation questions, and to a sample of the training questions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from radit_job import observe
from radit_job.config.schema import ArmName, Model
from radit_job.config.slices import AnswerSlice
from radit_job.errors import ConfigError, InputError
from radit_job.models.base import Answered, Conversation
from radit_job.models.loading import open_embedder, open_generator
from radit_job.rag.context import Context, find_contexts
from radit_job.rag.prompts import Prompts
from radit_job.rag.sampling import sample_and_shots
from radit_job.rag.voting import mixture_log_probability, retrieval_weights, vote
from radit_job.records import Prediction, Question, Split, read_rows, write_rows

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM

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
) -> dict[str, float]:
    """Read the questions, `chunks`, `embeddings` and the tuned `lm`; write `predictions`.

    One model is in memory at a time. An arm that is done is kept in `scratch`, so a killed run goes on with the next.
    """
    if "lm" in config.arms and lm is None:
        raise ConfigError("the arm lm needs a tuned model, but there is none", where="evaluate.arms")
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
    asked = _with_contexts(config, questions, chunks, embeddings)
    prompts = Prompts(config.retrieval.system_prompt, config.retrieval.template, config.retrieval.closed_book_template)
    builders = _builders(prompts, shots)
    base_arms = [arm for arm in config.arms if arm != "lm"]
    _answer_arms(config, config.lm, {arm: builders[arm] for arm in base_arms}, asked, scratch)
    if lm is not None and "lm" in config.arms:
        tuned = Model(provider="huggingface", name=str(lm / "merged"), dtype=config.lm.dtype)
        _answer_arms(config, tuned, {"lm": builders["lm"]}, asked, scratch)
    rows = (row for arm in config.arms for row in read_rows(scratch / f"{arm}.jsonl", Prediction))
    write_rows(out / "predictions" / "predictions.jsonl", rows)
    return _counters(config, out / "predictions" / "predictions.jsonl")


def _with_contexts(
    config: AnswerSlice, questions: Sequence[tuple[Split, Question]], chunks: Path, embeddings: Path
) -> list[Asked]:
    if set(config.arms) == {"closed_book"}:
        return [Asked(split, question, NO_CONTEXT) for split, question in questions]
    model = config.embedder
    embedder = open_embedder(model.provider, model.name, model.revision, model.dtype)
    rows = [question for _, question in questions]
    contexts = find_contexts(rows, embedder.embed_queries, embeddings=embeddings, chunks=chunks, k=config.retrieval.k)
    return [Asked(split, row, context) for (split, row), context in zip(questions, contexts, strict=True)]


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


def _answer_arms(
    config: AnswerSlice, model: Model, builders: dict[ArmName, Builder], asked: Sequence[Asked], scratch: Path
) -> None:
    """Answer the arms of one model that are not yet in scratch; the model is freed when this returns."""
    pending = {arm: build for arm, build in builders.items() if not (scratch / f"{arm}.jsonl").exists()}
    if not pending:
        return
    lm = open_generator(model.provider, model.name, model.revision, model.dtype)
    for arm, build in pending.items():
        partial = scratch / f"{arm}.partial"
        write_rows(partial, _answer_arm(config, lm, arm, build, asked))
        partial.replace(scratch / f"{arm}.jsonl")


def _answer_arm(
    config: AnswerSlice, lm: HuggingFaceLM, arm: ArmName, build: Builder, asked: Sequence[Asked]
) -> Iterator[Prediction]:
    separate = config.retrieval.context == "separate"
    prompts = [_prompts(lm, arm, build, item, config.answer.max_new_tokens, separate=separate) for item in asked]
    _warn_of_dropped_chunks(arm, asked, prompts)
    conversations = [prompt.conversation for mine in prompts for prompt in mine]
    references = [item.question.answer for item, mine in zip(asked, prompts, strict=True) for _ in mine]
    with observe.progress(f"answering: {arm}", total=len(conversations), unit="prompts") as bar:
        answered = lm.answer(
            conversations,
            references,
            max_new_tokens=config.answer.max_new_tokens,
            batch_size=config.answer.batch_size,
            temperature=config.answer.temperature,
            seed=config.seed,
            on_done=bar.advance,
        )
    remaining = iter(answered)
    for item, mine in zip(asked, prompts, strict=True):
        error = None if mine else _too_long(lm, build, item, config.answer.max_new_tokens, separate=separate)
        yield _prediction(arm, item, mine, [next(remaining) for _ in mine], error)


def _prompts(
    lm: HuggingFaceLM, arm: ArmName, build: Builder, item: Asked, max_new_tokens: int, *, separate: bool
) -> list[Prompt]:
    """The question's prompts, each short enough to leave room for the answer; none if that cannot be done.

    Joined: one prompt; the chunks that retrieval ranks last are left out until it fits. Separate: one prompt per chunk.
    """
    room = lm.context_tokens - max(max_new_tokens, len(lm.chat.answer_ids(item.question.answer)))
    n_chunks = 0 if arm == "closed_book" else len(item.context.texts)

    def prompt(chunks: slice) -> Prompt | None:
        conversation = build(item.question.question, item.context.texts[chunks])
        return Prompt(conversation, chunks) if lm.n_prompt_tokens(conversation) <= room else None

    if separate and n_chunks:
        return [found for row in range(n_chunks) if (found := prompt(slice(row, row + 1)))]
    shorter_and_shorter = (prompt(slice(0, n)) for n in range(n_chunks, -1, -1))
    return list(itertools.islice(filter(None, shorter_and_shorter), 1))


def _too_long(lm: HuggingFaceLM, build: Builder, item: Asked, max_new_tokens: int, *, separate: bool) -> str:
    """Why `_prompts` found none: the question itself, or only the reference, whose probability is to be measured."""
    least_context = item.context.texts[:1] if separate else ()
    n_prompt = lm.n_prompt_tokens(build(item.question.question, least_context))
    limit = f"the {lm.context_tokens} tokens that the model reads"
    if n_prompt + max_new_tokens > lm.context_tokens:
        return f"the question ({n_prompt} tokens as a prompt) leaves no room for an answer in {limit}"
    n_reference = len(lm.chat.answer_ids(item.question.answer))
    return f"the reference answer ({n_reference} tokens) does not fit behind the question in {limit}"


def _warn_of_dropped_chunks(arm: ArmName, asked: Sequence[Asked], prompts: Sequence[Sequence[Prompt]]) -> None:
    if arm == "closed_book":
        return
    n_short = 0
    for item, mine in zip(asked, prompts, strict=True):
        n_short += sum(prompt.chunks.stop - prompt.chunks.start for prompt in mine) < len(item.context.texts)
    if n_short:
        observe.warn(
            f"{arm}: {n_short} of {len(asked)} questions lost chunks, for the model cannot read them all",
            arm=arm,
            n_questions=n_short,
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


def _counters(config: AnswerSlice, path: Path) -> dict[str, float]:
    counters = {"n_predictions": 0, "n_errors": 0, "prompt_tokens": 0, "completion_tokens": 0, "llm_calls": 0}
    for row in read_rows(path, Prediction):
        n_prompts = len(row.chunk_ids) if config.retrieval.context == "separate" and row.chunk_ids else 1
        counters["n_predictions"] += 1
        counters["n_errors"] += row.error is not None
        counters["prompt_tokens"] += row.n_prompt_tokens
        counters["completion_tokens"] += row.n_completion_tokens
        counters["llm_calls"] += 0 if row.error else n_prompts
    return dict(counters)
