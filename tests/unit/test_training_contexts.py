"""What stands in a training question's context: retrieval's chunks, some without gold, or gold among near misses."""

import random

import pytest

from radit_job.rag.context import Context, GoldChunk
from radit_job.rag.training_contexts import Wanted, depth, draw_without_gold, figures, training_contexts
from radit_job.records import Question

N_CHUNKS = 12


def question(number, gold=None):
    """Its chunks are c0, c1, ... in the order of their similarity; its gold is the one at `gold`."""
    return Question(f"q{number}", f"Question {number}?", "x", None, () if gold is None else gold, "file")


def found(row, n=N_CHUNKS):
    """The n nearest of twelve chunks, whose cosine falls from 0.9 in steps of 0.05."""

    def score(at):
        return round(0.9 - 0.05 * at, 6)

    ranks = sorted(int(name[1:]) for name in row.chunk_ids)
    return Context(
        chunk_ids=tuple(f"c{at}" for at in range(n)),
        scores=tuple(score(at) for at in range(n)),
        texts=tuple(f"text {at}" for at in range(n)),
        gold_rank=ranks[0] + 1 if ranks else None,
        gold=tuple(GoldChunk(f"c{at}", score(at), f"text {at}") for at in ranks),
    )


def made(rows, wanted):
    return training_contexts(rows, [found(row, depth(rows, wanted, N_CHUNKS)) for row in rows], wanted)


ROWS = [question(number, ("c0",) if number % 3 else ("c1", "c7")) for number in range(30)]
ROWS += [question(number) for number in range(30, 40)]


def test_by_default_a_context_is_what_retrieval_finds():
    wanted = Wanted(k=3)
    assert depth(ROWS, wanted, N_CHUNKS) == 3
    for row in made(ROWS, wanted):
        assert row.context.chunk_ids == ("c0", "c1", "c2") and row.context.scores == (0.9, 0.85, 0.8)
        assert row.making == "found" and row.n_missing == 0


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.2, 6), (0.5, 15), (1.0, 30)])
def test_the_share_is_drawn_of_the_questions_whose_gold_is_known(share, n):
    drawn = draw_without_gold(ROWS, Wanted(3, share, seed=7))
    assert len(drawn) == n and not drawn & {row.question_id for row in ROWS[30:]}
    assert n in (0, 30) or drawn != draw_without_gold(ROWS, Wanted(3, share, seed=8))


def test_where_the_gold_is_left_out_the_next_chunks_take_its_place():
    drawn = draw_without_gold(ROWS, Wanted(3, 0.5, seed=7))
    contexts = made(ROWS, Wanted(3, 0.5, seed=7))
    for row, context in zip(ROWS, contexts, strict=True):
        if row.question_id not in drawn:
            assert context.context.chunk_ids == ("c0", "c1", "c2")
            continue
        left = [f"c{at}" for at in range(12) if f"c{at}" not in row.chunk_ids][:3]
        assert list(context.context.chunk_ids) == left and context.gold_position is None
        assert context.context.texts[-1] == f"text {left[-1][1:]}"
        assert context.context.scores[-1] == pytest.approx(0.9 - 0.05 * int(left[-1][1:]))


def test_distractors_are_the_nearest_chunks_that_are_not_gold():
    far = question(1, ("c9",))
    (context,) = made([far], Wanted(3, distractors=4, seed=1))
    assert sorted(context.context.chunk_ids) == ["c0", "c1", "c2", "c3", "c9"]
    by_name = dict(zip(context.context.chunk_ids, context.context.scores, strict=True))
    assert by_name["c9"] == 0.45 and by_name["c3"] == 0.75  # the gold chunk's own cosine, though it ranks tenth
    assert context.context.chunk_ids[context.gold_position - 1] == "c9" and context.context.gold_rank == 10


def test_of_several_gold_chunks_the_nearest_stands_among_the_distractors():
    (context,) = made([question(1, ("c7", "c1"))], Wanted(3, distractors=2, seed=1))
    assert sorted(context.context.chunk_ids) == ["c0", "c1", "c2"]


def test_without_gold_and_with_distractors_there_is_one_more_near_miss():
    wanted = Wanted(3, without_gold_share=1.0, distractors=2, seed=1)
    (context,) = made([question(1, ("c0",))], wanted)
    assert sorted(context.context.chunk_ids) == ["c1", "c2", "c3"] and context.making == "left_out"


def test_no_distractors_is_the_gold_chunk_alone():
    (context,) = made([question(1, ("c5",))], Wanted(3, distractors=0))
    assert context.context.chunk_ids == ("c5",) and context.gold_position == 1


def test_a_question_without_known_gold_keeps_what_retrieval_finds():
    (context,) = made([question(1)], Wanted(3, without_gold_share=1.0))
    assert context.context.chunk_ids == ("c0", "c1", "c2") and context.making == "found"


@pytest.mark.parametrize("distractors", [0, 1, 5])
def test_with_distractors_the_form_of_a_context_does_not_tell_that_gold_is_unknown(distractors):
    rows = [question(number, None if number % 2 else ("c0",)) for number in range(60)]
    contexts = made(rows, Wanted(3, 0.5, distractors, seed=7))
    assert {len(row.context.chunk_ids) for row in contexts} == {distractors + 1}
    unknown = [row.context for row in contexts[1::2]]
    nearest = [f"c{at}" for at in range(distractors + 1)]
    assert all(sorted(context.chunk_ids) == nearest for context in unknown)
    assert {context.chunk_ids[0] for context in unknown} == set(nearest), "the nearest chunk stands anywhere"
    for context in unknown:  # its similarity and its text go with it
        assert context.scores == tuple(round(0.9 - 0.05 * int(name[1:]), 6) for name in context.chunk_ids)
        assert context.texts == tuple(f"text {name[1:]}" for name in context.chunk_ids)


def test_the_order_is_drawn_so_that_gold_stands_anywhere():
    rows = [question(number, ("c0",)) for number in range(60)]
    contexts = made(rows, Wanted(3, distractors=3, seed=7))
    positions = [context.gold_position for context in contexts]
    assert all(8 <= positions.count(place) <= 22 for place in (1, 2, 3, 4))


def test_a_question_s_context_does_not_depend_on_the_order_of_the_others():
    wanted = Wanted(3, without_gold_share=0.4, distractors=3, seed=7)
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    before = dict(zip([row.question_id for row in ROWS], made(ROWS, wanted), strict=True))
    after = dict(zip([row.question_id for row in shuffled], made(shuffled, wanted), strict=True))
    assert before == after
    # Among fewer others its order stays, too; only whether it is drawn is a matter of the share.
    alone = {row.question_id: made([row], Wanted(3, distractors=3, seed=7))[0] for row in ROWS}
    assert all(alone[name] == row for name, row in before.items() if row.making == "among_misses")


def test_chunks_that_run_out_are_counted():
    contexts = made([question(1, ("c0", "c1"))], Wanted(11, without_gold_share=1.0))
    assert (len(contexts[0].context.chunk_ids), contexts[0].n_missing) == (10, 1)
    contexts = made([question(1, ("c0",))], Wanted(3, distractors=20))
    assert (len(contexts[0].context.chunk_ids), contexts[0].n_missing) == (12, 9)


def test_the_figures_tell_what_was_left_out_from_what_was_missed():
    rows = [*ROWS[:29], question(50, ("c11",))]  # retrieval misses the last one
    counted = figures(rows, made(rows, Wanted(3, without_gold_share=0.2, seed=7)))
    drawn = draw_without_gold(rows, Wanted(3, 0.2, seed=7))
    n_missed = "q50" not in drawn
    assert counted["n_gold_left_out"] == 6 and counted["n_gold_missed"] == n_missed == 1
    assert counted["n_without_gold"] == 7 and counted["n_with_distractors"] == 0
    assert sum(counted["gold_positions"].values()) == 30 - 7 and set(counted["gold_positions"]) == {"1", "2"}
    counted = figures(ROWS, made(ROWS, Wanted(3, distractors=2)))
    assert (counted["n_with_distractors"], counted["n_without_gold"]) == (30, 0)
