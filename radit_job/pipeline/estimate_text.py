"""The estimate of a run's cost, for people: a headline, a table, and what it rests on. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from radit_job.config.schema import Config
from radit_job.models.cost import Usage
from radit_job.pipeline.estimate import (
    ANSWER_TOKENS,
    DROPPED_SHARE,
    JUDGEMENT_TOKENS,
    QUESTION_TOKENS,
    REFERENCE_TOKENS,
    Row,
)
from radit_job.pipeline.measures import Measures
from radit_job.pipeline.served import served_uses
from radit_job.report.spending import dollars


def total(rows: Iterable[Row]) -> Row:
    """All rows as one; a sum is None where one part of it is."""
    found = Row("in all", "", Usage(), Usage(), 0.0, 0.0)
    for row in rows:
        found = replace(
            found,
            usage=found.usage + row.usage,
            most=found.most + row.most,
            usd=_added(found.usd, row.usd),
            most_usd=_added(found.most_usd, row.most_usd),
        )
    return found


def headline(rows: Iterable[Row]) -> str:
    """`about $0.31 (at most $0.55)`, as far as prices are known."""
    rows = list(rows)
    whole = total(rows)
    if whole.usd is None or whole.most_usd is None:
        unknown = sorted({row.model for row in rows if row.usd is None})
        known = total(row for row in rows if row.usd is not None)
        return f"unknown: no price for {', '.join(unknown)}; the rest is {_about(known)}"
    return _about(whole)


def beyond_budget(rows: Iterable[Row], budget_usd: float | None) -> str:
    """What is to be said where the likely sum does not fit the budget; else nothing."""
    usd = total(row for row in rows if row.usd is not None).usd or 0.0
    if budget_usd is None or usd <= budget_usd:
        return ""
    return f"{dollars(usd)} are expected, and the budget is {dollars(budget_usd)}: the run will stop before its end"


def table(rows: Iterable[Row]) -> list[str]:
    """The rows as lines of at most 100 characters."""
    rows = list(rows)
    lines = [f"  {'stage':<12} {'model':<32} {'calls':>7} {'tokens in':>10} {'out':>8} {'about':>10} {'at most':>10}"]
    for row in [*rows, total(rows)]:
        n_in = row.usage.n_prompt_tokens + row.usage.n_training_tokens
        lines.append(
            f"  {row.stage:<12} {_shortened(row.model, 32):<32} {row.usage.n_calls:>7,} {n_in:>10,} "
            f"{row.usage.n_completion_tokens:>8,} {dollars(row.usd):>10} {dollars(row.most_usd):>10}"
        )
    return lines


def assumptions(config: Config, measures: Measures) -> str:
    """What the likely figure rests on, in words."""
    parts = []
    if measures.n_questions is None:
        parts.append(f"questions of {QUESTION_TOKENS} tokens with answers of {REFERENCE_TOKENS}")
        parts.append(f"{DROPPED_SHARE:.0%} of them dropped and made up for")
    parts.append(f"answers of {min(ANSWER_TOKENS, config.answer.max_new_tokens)} tokens before tuning")
    judged = [name for name in config.evaluate.metrics if name in JUDGEMENT_TOKENS]
    if judged:
        parts.append(f"judgements of {', '.join(f'{JUDGEMENT_TOKENS[name]} ({name})' for name in judged)}")
    unknown = sorted({use.model.name for use in served_uses(config) if measures.margins.get(use.role, 1.0) > 1})
    guessed = f"; the tokens of {', '.join(unknown)} are a guess without models.*.tokenizer" if unknown else ""
    most = "every answer as long as it may be, and every chunk asked that may be"
    return f"assuming {'; '.join(parts)}; at most: {most}; calls that must be repeated come on top{guessed}"


def _about(row: Row) -> str:
    return f"about {dollars(row.usd or 0.0)} (at most {dollars(row.most_usd or 0.0)})"


def _added(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
