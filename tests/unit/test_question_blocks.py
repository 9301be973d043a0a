"""How a question writer's work is cut: nothing lost, a chunk in one block, quotas that add up."""

import pytest

from radit_job.rag.question_blocks import BLOCK_SENTENCES, cut_blocks
from radit_job.rag.question_writing import Sentence


def sentences(n_chunks, per_chunk):
    chunks = [f"d#{number % n_chunks}" for number in range(n_chunks * per_chunk)]
    return [Sentence(f"Sentence {number}.", "d", [chunk]) for number, chunk in enumerate(chunks)]


@pytest.mark.parametrize(("n_chunks", "per_chunk", "n_wanted"), [(1, 3, 2), (100, 6, 100), (333, 3, 166), (40, 30, 7)])
def test_every_sentence_is_in_one_block_and_every_question_in_one_quota(n_chunks, per_chunk, n_wanted):
    drawn = sentences(n_chunks, per_chunk)
    blocks = cut_blocks(drawn, n_wanted)
    assert sorted(position for block in blocks for position in block.positions) == list(range(len(drawn)))
    assert sum(block.n_wanted for block in blocks) == n_wanted
    chunks = [{drawn[position].chunk_ids[0] for position in block.positions} for block in blocks]
    assert sum(map(len, chunks)) == n_chunks  # no chunk in two of them
    assert len(blocks) == max(1, round(len(drawn) / BLOCK_SENTENCES))
    assert [block.n_before for block in blocks] == [
        sum(len(block.positions) for block in blocks[:number]) for number in range(len(blocks))
    ]


def test_only_where_sentences_are_scarce_more_is_written_than_wanted():
    drawn = sentences(100, 6)
    assert {block.n_spare for block in cut_blocks(drawn, 100)} == {0}
    assert all(block.n_spare == -(-block.n_wanted // 4) for block in cut_blocks(drawn, 300))
    assert [block.n_spare for block in cut_blocks(drawn[:150], 100)] == [0]  # no other block that could fall short
