"""Which chunks a large model is asked about, and in which order: blocks that know nothing of each other.

As with sentences, how many shards there are changes nothing in a block. Questions of two blocks are not compared:
what two of them ask alike stays, unless it is the same word for word, which the split drops.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from radit_job.rag.pair_filters import common_words, n_words
from radit_job.rag.question_blocks import with_neighbours
from radit_job.rag.question_writing import MAX_CAPITAL_SHARE, is_bibliography
from radit_job.rag.sampling import spread
from radit_job.records import Chunk, read_rows

BLOCK_QUESTIONS = 200  # a paper or two: within them no question is asked twice in other words
CHUNKS_PER_QUESTION = 6  # a model that fails on so many would fail on all of them, and they cost money
MIN_CHUNK_WORDS = 20  # a heading, or the end of a page
MIN_LETTER_SHARE = (
    0.55  # of what is not space; prose has 0.8 to 0.95 in any language, half a table 0.6, tables below 0.5
)
COMPARED_CHUNKS = 1000  # enough to tell which words are common


@dataclass(frozen=True, slots=True)
class PairBlock:
    """A share of the chunks, and how many questions are wanted of them."""

    number: int
    positions: tuple[int, ...]  # of its chunks in their file, in the order in which they are asked
    n_wanted: int


@dataclass(frozen=True, slots=True)
class PairPlan:
    """All blocks of a corpus, and what is not asked about."""

    blocks: tuple[PairBlock, ...]
    n_chunks: int  # that can be asked about
    n_wanted: int
    skipped: Mapping[str, int]  # chunks that are never asked about, by reason


@dataclass(frozen=True, slots=True)
class AskedChunk:
    """A chunk with its neighbours in the document: name and text of each."""

    chunk_id: str
    document: str
    text: str
    neighbours: tuple[tuple[str, str], ...]


def plan_pairs(chunk_file: Path, *, per_chunk: int, limit: int | None, seed: int) -> PairPlan:
    """Chunks spread over the documents by the seed, and dealt out to blocks; no limit asks for per_chunk of each."""
    documents: list[str] = []
    positions: list[int] = []
    skipped: Counter[str] = Counter()
    seen: set[bytes] = set()
    for position, chunk in enumerate(read_rows(chunk_file, Chunk)):
        text_digest = hashlib.blake2b(chunk.text.encode(), digest_size=12).digest()
        reason = "repeated" if text_digest in seen else why_not_asked(chunk.text)
        seen.add(text_digest)
        if reason is None:
            documents.append(chunk.document)
            positions.append(position)
        else:
            skipped[reason] += 1
    n_wanted = per_chunk * len(positions) if limit is None else min(limit, per_chunk * len(positions))
    order = [positions[number] for number in spread(documents, seed)[: CHUNKS_PER_QUESTION * n_wanted]]
    n_blocks = max(1, round(n_wanted / BLOCK_QUESTIONS))
    quotas = [n_wanted * (number + 1) // n_blocks - n_wanted * number // n_blocks for number in range(n_blocks)]
    blocks = tuple(
        PairBlock(number, tuple(order[number::n_blocks]), quota) for number, quota in enumerate(quotas) if quota
    )
    return PairPlan(blocks, len(positions), n_wanted, dict(sorted(skipped.items())))


def why_not_asked(text: str) -> str | None:
    """Why nothing can be asked about a chunk: it is short, a table, or a list of references or names."""
    if n_words(text) < MIN_CHUNK_WORDS:
        return "short"
    seen = [character for character in text if not character.isspace()]
    n_letters = sum(unicodedata.category(character)[0] in "LM" for character in seen)
    if n_letters < MIN_LETTER_SHARE * len(seen):
        return "table"
    pieces = text.split()
    n_capitals = sum(piece[0].isupper() for piece in pieces)
    return "bibliography" if is_bibliography(text) or n_capitals > MAX_CAPITAL_SHARE * len(pieces) else None


def read_asked(chunk_file: Path, positions: Iterable[int]) -> dict[int, AskedChunk]:
    """The chunks at these positions of the file, with their neighbours."""
    wanted = set(positions)
    asked: dict[int, AskedChunk] = {}
    for position, (before, chunk, after) in enumerate(with_neighbours(read_rows(chunk_file, Chunk))):
        if position in wanted:
            near = [other for other in (before, after) if other and other.document == chunk.document]
            asked[position] = AskedChunk(
                chunk.chunk_id, chunk.document, chunk.text, tuple((other.chunk_id, other.text) for other in near)
            )
    return asked


def common_words_of(chunk_file: Path, plan: PairPlan) -> frozenset[str]:
    """The words that many of the plan's chunks have; the same for every block and shard."""
    n_compared = max(1, COMPARED_CHUNKS // max(1, len(plan.blocks)))
    first = {position for block in plan.blocks for position in block.positions[:n_compared]}
    rows = enumerate(read_rows(chunk_file, Chunk))
    return common_words(chunk.text for position, chunk in rows if position in first)
