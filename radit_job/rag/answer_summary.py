"""What the predictions of a run's arms say together: warnings, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from radit_job import observe
from radit_job.rag.answering import Form
from radit_job.records import CLOSED_BOOK_ARMS, Prediction

MANY_CUT = 0.2  # of an arm's answers, by the limit on their length


def warn_of_dropped_chunks(rows: Iterable[Prediction], *, k: int) -> None:
    """Say how many questions of each arm were asked with fewer than k chunks."""
    n_questions: Counter[str] = Counter()
    n_short: Counter[str] = Counter()
    for row in rows:
        n_questions[row.arm] += 1
        n_short[row.arm] += row.arm not in CLOSED_BOOK_ARMS and len(row.chunk_ids) < k
    for arm, count in n_short.items():
        if count:
            observe.warn(
                f"{arm}: {count} of {n_questions[arm]} questions lost chunks, for the model cannot read them all",
                arm=arm,
                n_questions=count,
            )


def warn_of_cut_answers(rows: Iterable[Prediction], *, max_new_tokens: int) -> None:
    """Say which arms had many answers cut at the limit."""
    n_answered: Counter[str] = Counter()
    n_cut: Counter[str] = Counter()
    n_empty: Counter[str] = Counter()
    for row in rows:
        n_answered[row.arm] += row.finish_reason != "error"
        n_cut[row.arm] += row.finish_reason == "length"
        n_empty[row.arm] += row.finish_reason == "length" and row.error is not None
    for arm, count in n_cut.items():
        if count > MANY_CUT * n_answered[arm]:
            limit = f"the limit of {max_new_tokens} tokens (answer.max_new_tokens)"
            without_text = f", {n_empty[arm]} of them before any text came" if n_empty[arm] else ""
            observe.warn(
                f"{arm}: {count} of {n_answered[arm]} answers were cut at {limit}{without_text}", arm=arm, n_cut=count
            )


def counters(rows: Iterable[Prediction], *, context: Form) -> dict[str, float]:
    """n_predictions, n_errors, the tokens read and written, and llm_calls: each prompt of a question is one."""
    found = {"n_predictions": 0, "n_errors": 0, "prompt_tokens": 0, "completion_tokens": 0, "llm_calls": 0}
    for row in rows:
        n_prompts = len(row.chunk_ids) if context != "joined" and row.chunk_ids else 1
        found["n_predictions"] += 1
        found["n_errors"] += row.error is not None
        found["prompt_tokens"] += row.n_prompt_tokens
        found["completion_tokens"] += row.n_completion_tokens
        found["llm_calls"] += 0 if row.finish_reason == "error" else n_prompts
    return dict(found)
