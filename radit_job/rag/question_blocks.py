"""The work of a question writer, cut into blocks that know nothing of each other, so that many can write at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radit_job.rag.matching import match_words
from radit_job.rag.question_writing import Sentence, Vectors, answer_sentences
from radit_job.rag.sampling import spread
from radit_job.records import Chunk, read_rows

SENTENCES_PER_QUESTION = 6  # about one sentence in three gives a question; twice that, to be sure
BLOCK_SENTENCES = 150  # for 25 questions: enough that one block's luck is much like another's
SCARCE = 4  # fewer sentences than this for a question: some blocks will fall short, so all write SPARE_SHARE more
SPARE_SHARE = 0.25
COMPARED_SENTENCES = 2048  # that every block's questions must not find instead; more would cost more than they find


@dataclass(frozen=True, slots=True)
class QuestionBlock:
    """A share of the sentences, and how many questions are wanted of them."""

    number: int
    positions: tuple[int, ...]  # of its sentences in the drawn order
    n_wanted: int
    n_spare: int  # so many more, in the place of what other blocks lack; whoever reads all blocks drops the rest
    n_before: int  # sentences of the blocks before it


def draw_sentences(chunk_file: Path, documents: Sequence[str], n_wanted: int, seed: int) -> list[Sentence]:
    """Sentences to try, spread over documents and chunks; several for each question that is wanted.

    `documents` holds the document of each chunk.
    """
    n_sentences = SENTENCES_PER_QUESTION * n_wanted
    chosen = set(spread(documents, seed)[:n_sentences])
    sentences: dict[str, Sentence] = {}
    for index, (before, chunk, after) in enumerate(with_neighbours(read_rows(chunk_file, Chunk))):
        if index not in chosen:
            continue
        for text in answer_sentences(chunk):
            key = " ".join(match_words(text))
            if key not in sentences:
                neighbours = [other for other in (before, after) if other and other.document == chunk.document]
                also = [other.chunk_id for other in neighbours if text in other.text]
                sentences[key] = Sentence(text, chunk.document, [chunk.chunk_id, *also])
    found = list(sentences.values())
    by_chunk = spread([sentence.chunk_ids[0] for sentence in found], seed)
    return [found[number] for number in by_chunk[:n_sentences]]


def cut_blocks(sentences: Sequence[Sentence], n_wanted: int) -> list[QuestionBlock]:
    """Blocks of about BLOCK_SENTENCES; a chunk's sentences stay together, for so many questions a chunk may have."""
    n_blocks = max(1, round(len(sentences) / BLOCK_SENTENCES))
    deal = itertools.cycle(range(n_blocks))
    block_of: dict[str, int] = {}
    members: list[list[int]] = [[] for _ in range(n_blocks)]
    for position, sentence in enumerate(sentences):
        chunk_id = sentence.chunk_ids[0]
        if chunk_id not in block_of:
            block_of[chunk_id] = next(deal)
        members[block_of[chunk_id]].append(position)
    ends = list(itertools.accumulate(map(len, members)))
    is_scarce = n_blocks > 1 and len(sentences) < SCARCE * n_wanted
    quotas = [n_wanted * end // max(1, len(sentences)) for end in ends]  # of this block and those before it
    return [
        QuestionBlock(
            number,
            tuple(positions),
            quota - before,
            math.ceil(SPARE_SHARE * (quota - before)) if is_scarce else 0,
            end - len(positions),
        )
        for number, (positions, quota, before, end) in enumerate(zip(members, quotas, [0, *quotas], ends, strict=False))
    ]


class SentenceVectors:
    """Vectors of a block's sentences, and of those that its questions could find instead."""

    def __init__(self, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> None:
        self._texts = texts
        self._embed = embed
        self._shared = embed(texts[:COMPARED_SENTENCES])  # the same for all blocks, in the same batches

    def of_block(self, block: QuestionBlock) -> tuple[Vectors, Vectors]:
        """([n, d] of the block's sentences, [m, d] of the others that count)."""
        n_shared = len(self._shared)
        far = [position for position in block.positions if position >= n_shared]
        own = np.empty((len(block.positions), self._shared.shape[1]), dtype=np.float32)
        is_far = np.array(block.positions) >= n_shared
        own[~is_far] = self._shared[[position for position in block.positions if position < n_shared]]
        if far:
            own[is_far] = self._embed([self._texts[position] for position in far])
        others = np.ones(n_shared, dtype=bool)
        others[[position for position in block.positions if position < n_shared]] = False
        return own, self._shared[others]


def with_neighbours(chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk | None, Chunk, Chunk | None]]:
    """Each chunk with the one before and the one after it, which share its overlap."""
    before: Chunk | None = None
    here = next(chunks, None)
    while here is not None:
        after = next(chunks, None)
        yield before, here, after
        before, here = here, after
