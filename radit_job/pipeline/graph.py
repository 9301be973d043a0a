"""Which stages a configuration needs, and what stands behind what. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from radit_job.config.schema import Config
from radit_job.errors import ConfigError
from radit_job.pipeline.catalog import CATALOG, SOURCES, StageRow
from radit_job.records import RETRIEVER_ARMS, TUNED_ARMS


def artifact_name(read: str) -> str:
    """The artifact that a catalog row's `reads` entry names, whether or not it may be absent."""
    return read.removesuffix("?")


def producer_of(artifact: str) -> str:
    """The stage that writes an artifact; a source is its own."""
    if artifact in SOURCES:
        return artifact
    return next(row.name for row in CATALOG if artifact in row.writes)


def unused_stages(config: Config) -> dict[str, str]:
    """Stages that this configuration has no use for, and why."""
    arms = set(config.evaluate.arms)
    unused: dict[str, str] = {}
    if not TUNED_ARMS & arms:
        unused |= dict.fromkeys(("augment", "finetune_lm"), "evaluate.arms names no arm with a tuned LM")
    if not config.benchmark.enabled:
        unused["benchmark"] = "benchmark.enabled is false"
    if not RETRIEVER_ARMS & arms:
        unused |= dict.fromkeys(("score", "finetune_retriever"), "evaluate.arms names no arm with a tuned retriever")
    return unused


def needed_rows(config: Config, until: str | None = None) -> list[StageRow]:
    """The catalog's rows in order: without the unused ones, and with `until` only that stage and what it needs."""
    unused = unused_stages(config)
    rows = [row for row in CATALOG if row.name not in unused]
    if until is None:
        return rows
    check_stage(until)
    if until in unused:
        raise ConfigError(f"{until} is not part of this run: {unused[until]}", where="--until")
    wanted = {until} | ancestors(until)
    return [row for row in rows if row.name in wanted]


def check_stage(stage: str) -> None:
    """ConfigError for a name that the catalog does not have."""
    names = [row.name for row in CATALOG]
    if stage not in names:
        raise ConfigError(f"there is no stage {stage!r}", todo=f"The stages are: {', '.join(names)}.")


def ancestors(stage: str) -> set[str]:
    """Every stage whose output reaches this one, directly or not."""
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        row = next((row for row in CATALOG if row.name == waiting[-1]), None)
        waiting.pop()
        for read in row.reads if row else ():
            producer = producer_of(artifact_name(read))
            if producer not in found and producer not in SOURCES:
                found.add(producer)
                waiting.append(producer)
    return found


def stages_before(row: StageRow, rows: Sequence[StageRow]) -> set[str]:
    """The stages among `rows` that must have ended before this one can start."""
    names = {other.name for other in rows}
    return {producer for producer in (producer_of(artifact_name(read)) for read in row.reads) if producer in names}
