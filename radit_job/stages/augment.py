"""augment: training conversations, each with the context that retrieval gives its question, or with none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from radit_job import observe
from radit_job.config.slices import AugmentSlice
from radit_job.errors import InputError
from radit_job.models.ledger import Ledger
from radit_job.models.loading import open_embedder
from radit_job.rag.answering import NO_CONTEXT
from radit_job.rag.context import Context, find_contexts
from radit_job.rag.grouping import group_names
from radit_job.rag.metrics import reciprocal_rank
from radit_job.rag.prompts import Prompts
from radit_job.rag.training_contexts import TrainingContext, Wanted, depth, figures, training_contexts
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import Example, Message, Question, read_rows, write_rows


def run(
    config: AugmentSlice,
    *,
    train_questions: Path,
    chunks: Path,
    embeddings: Path,
    out: Path,
    scratch: Path,
    ledger: Ledger | None = None,
) -> dict[str, float]:
    """Read `train_questions`, `chunks`, `embeddings`; write `examples`.

    With the training context none the examples are bare questions, and nothing is retrieved.
    Besides examples.jsonl the same examples stand in openai.jsonl (OpenAI's chat format for fine-tuning) and in
    llamaindex.json (LlamaIndex's LabelledRagDataset); augment.json has the figures.
    """
    questions = list(read_rows(train_questions / "questions.jsonl", Question))
    if not questions:
        raise InputError(
            "there are no training questions", where="split.train_share", todo="Raise it, or add questions."
        )
    retrieval = config.retrieval
    form = "none" if config.training_context == "none" else retrieval.context
    made = None if form == "none" else _contexts(config, questions, embeddings, chunks, ledger)
    contexts = [NO_CONTEXT] * len(questions) if made is None else [row.context for row in made]
    prompts = Prompts(retrieval.system_message, retrieval.template, retrieval.closed_book_template)
    folder = out / "examples"
    n_examples = write_rows(folder / "examples.jsonl", _examples(questions, contexts, prompts, form))
    _write_openai(folder / "openai.jsonl", read_rows(folder / "examples.jsonl", Example))
    _write_llamaindex(folder / "llamaindex.json", questions, contexts)
    counts = {"n_examples": n_examples, "n_questions": len(questions)}
    facts = {
        **counts,
        "context": form,
        "k": 0 if form == "none" else retrieval.k,
        **_gold_figures(contexts, retrieval.k),
    }
    if made is not None:
        held = figures(questions, made)
        facts |= {**config.added.model_dump(), **held}
        counts |= {name: value for name, value in held.items() if isinstance(value, int)}
    (folder / "augment.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    observe.log("augmented", **facts)
    return dict(counts)


def _contexts(
    config: AugmentSlice, questions: Sequence[Question], embeddings: Path, chunks: Path, ledger: Ledger | None
) -> list[TrainingContext]:
    """Retrieved as deep as the examples that are added need it."""
    added = config.added
    wanted = Wanted(config.retrieval.k, added.without_gold_share, added.distractors, config.seed)
    embedder = open_embedder(config.embedder.ref(), ledger)
    found = find_contexts(
        questions,
        embedder.embed_queries,
        embeddings=embeddings,
        chunks=chunks,
        k=wanted.k if wanted.is_as_found else depth(questions, wanted, VectorIndex.open(embeddings).facts["n_chunks"]),
        with_gold=not wanted.is_as_found,
    )
    made = training_contexts(questions, found, wanted)
    if n_short := sum(row.n_missing > 0 for row in made):
        observe.warn(
            f"the corpus has too few chunks: {n_short} of {len(made)} training questions got fewer than they should; "
            "lower retrieval.k or finetune_lm.examples.distractors, or cut smaller chunks"
        )
    return made


def _examples(
    questions: Sequence[Question],
    contexts: Sequence[Context],
    prompts: Prompts,
    form: Literal["joined", "separate", "ensemble", "none"],
) -> Iterator[Example]:
    """One example per question with all its chunks; in separate and ensemble one per question and chunk.

    The latter is RA-DIT, section 2.2. none: one per question, as it is asked without a context.
    """
    for question, context, group in zip(questions, contexts, group_names(questions), strict=True):
        n = len(context.chunk_ids)
        is_divided = form in ("separate", "ensemble") and n > 0
        for part in [slice(i, i + 1) for i in range(n)] if is_divided else [slice(0, n)]:
            chunk_ids, texts = context.chunk_ids[part], context.texts[part]
            bare = form == "none"
            prompt = prompts.closed_book(question.question) if bare else prompts.with_context(question.question, texts)
            has_gold = not set(chunk_ids).isdisjoint(question.chunk_ids)
            yield Example(
                question_id=question.question_id,
                question=question.question,
                group=group,
                chunk_ids=chunk_ids,
                scores=context.scores[part],
                gold_in_context=has_gold if question.chunk_ids else None,
                messages=(*prompt, Message("assistant", question.answer)),
            )


def _gold_figures(contexts: Sequence[Context], k: int) -> dict[str, Any]:
    """How often retrieval alone has a gold chunk among its first 1, 2, ... k, of the questions whose gold is known."""
    ranks = [context.gold_rank for context in contexts if context.gold_rank is not None]
    if not ranks:
        return {"n_gold_known": 0, "gold_in_context_share": None, "mrr": None}
    share = {str(size): round(sum(rank <= size for rank in ranks) / len(ranks), 6) for size in range(1, k + 1)}
    mrr = round(sum(map(reciprocal_rank, ranks)) / len(ranks), 6)
    return {"n_gold_known": len(ranks), "gold_in_context_share": share, "mrr": mrr}


def _write_openai(path: Path, examples: Iterator[Example]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            messages = [asdict(message) for message in example.messages]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def _write_llamaindex(path: Path, questions: Sequence[Question], contexts: Sequence[Context]) -> None:
    """LlamaIndex's LabelledRagDataset.save_json; its reference contexts are here the retrieved ones."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"examples": [')
        for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
            by = {"model_name": "", "type": "ai" if question.source == "generated" else "human"}
            row = {
                "query": question.question,
                "query_by": by,
                "reference_contexts": list(context.texts),
                "reference_answer": question.answer,
                "reference_answer_by": by,
            }
            file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]}\n")
