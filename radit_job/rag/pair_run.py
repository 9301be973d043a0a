"""All pairs of a plan's blocks, one block after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radit_job import observe
from radit_job.rag.asking import Asker
from radit_job.rag.pair_blocks import PairBlock, PairPlan, common_words_of, read_asked
from radit_job.rag.pair_filters import PairRules
from radit_job.rag.pair_writing import Embed, PairWriter
from radit_job.rag.written_blocks import AskedCounts, WrittenBlock, find_leaks, warn_of_missing
from radit_job.records import Question


@dataclass(frozen=True, slots=True)
class PairSettings:
    """What is wanted of the pairs; meanings and units: `radit config`, section questions."""

    per_chunk: int
    check: Literal["overlap", "call", "none"]
    max_similarity: float
    max_answer_words: int


def write_pairs(
    plan: PairPlan,
    mine: Sequence[PairBlock],
    chunk_file: Path,
    settings: PairSettings,
    asker: Callable[[Callable[[int], None]], Asker],
    embed_questions: Embed,
) -> list[WrittenBlock]:
    """The blocks of one shard; `asker` makes one that tells a function how many more chunks have answered."""
    common = common_words_of(chunk_file, plan) if settings.check == "overlap" else frozenset()
    rules = PairRules(settings.max_answer_words, settings.check == "overlap", common)
    chunks = read_asked(chunk_file, {position for block in mine for position in block.positions})
    n_wanted = sum(block.n_wanted for block in mine)
    done: list[WrittenBlock] = []
    with observe.progress("write pairs", unit="chunks") as bar:
        for share in mine:
            writer = PairWriter(
                [chunks[position] for position in share.positions],
                asked := asker(bar.advance),
                embed_questions,
                rules,
                settings.max_similarity,
                check_by_call=settings.check == "call",
                name=f"g{share.number:04d}-",
            )
            n_before = sum(len(block.questions) for block in done)

            def on_round(kept: int, n_before: int = n_before) -> None:
                bar.advance(0, kept=n_before + kept, wanted=n_wanted)

            questions = writer.run(share.n_wanted, settings.per_chunk, on_round)
            done.append(_block(share, questions, writer, asked, plan))
    warn_of_missing(done, n_wanted)
    find_leaks(done, chunk_file)
    return done


def _block(
    share: PairBlock, questions: list[Question], writer: PairWriter, asked: Asker, plan: PairPlan
) -> WrittenBlock:
    if writer.gave_up:
        observe.warn(f"block {share.number}: the model was not asked further, for it wrote nothing usable")
    counts = AskedCounts(
        n_chunks=len(share.positions),
        n_asked_chunks=sum(n_pairs > 0 for n_pairs in writer.n_asked),
        n_prompt_tokens=asked.n_prompt_tokens,
        skipped_chunks=plan.skipped if share.number == 0 else {},
    )
    block = WrittenBlock(share.number, share.n_wanted, questions, writer.dropped, asked=counts)
    block.n_llm_calls, block.n_completion_tokens = asked.n_calls, asked.n_completion_tokens
    return block
