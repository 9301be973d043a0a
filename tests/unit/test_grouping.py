"""Groups stay whole, shares are exact, draws are even and seeded."""

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from radit_job.rag.grouping import choose_groups, connected_groups, group_names
from radit_job.rag.sampling import sample_and_shots, spread
from radit_job.records import Question

KEYS = st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=30)


@given(KEYS)
def test_items_that_share_a_key_are_in_one_group(keys):
    groups = connected_groups(keys)
    assert sorted(item for group in groups for item in group) == list(range(len(keys)))
    group_of = {item: number for number, group in enumerate(groups) for item in group}
    for one, other in combinations(range(len(keys)), 2):
        if set(keys[one]) & set(keys[other]):
            assert group_of[one] == group_of[other]
    unlinked = [item for item, own in enumerate(keys) if not own]
    assert all(len(groups[group_of[item]]) == 1 for item in unlinked)


def test_a_passage_groups_questions_with_and_without_an_answer():
    def named(number, chunk_ids=(), passage_chunk_ids=()):
        return Question(f"q{number}", "?", "", None, chunk_ids, "file", passage_chunk_ids)

    rows = [named(0, (), ("a", "b")), named(1, ("b",)), named(2, (), ("c",)), named(3, (), ("c",)), named(4)]
    assert group_names(rows) == ["a", "a", "c", "c", "q4"]


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.floats(0.05, 0.95), st.integers(0, 5))
def test_the_share_is_as_near_as_any_choice_can_come(sizes, share, seed):
    chosen = choose_groups(sizes, share, seed)
    assert 0 < len(chosen) < len(sizes)
    reachable = {sum(choice) for n in range(1, len(sizes)) for choice in combinations(sizes, n)}
    target = share * sum(sizes)
    assert abs(sum(sizes[number] for number in chosen) - target) == min(abs(amount - target) for amount in reachable)


def test_the_seed_decides_the_choice():
    sizes = [1] * 50
    assert choose_groups(sizes, 0.5, 1) == choose_groups(sizes, 0.5, 1)
    assert choose_groups(sizes, 0.5, 1) != choose_groups(sizes, 0.5, 2)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(0, 9), st.data())
def test_every_prefix_of_a_spread_is_even(groups, seed, data):
    order = spread(groups, seed)
    assert sorted(order) == list(range(len(groups)))
    taken = Counter(groups[item] for item in order[: data.draw(st.integers(1, len(groups)))])
    sizes = Counter(groups)
    unfinished = [taken[group] for group in sizes if taken[group] < sizes[group]]
    assert not unfinished or max(taken.values()) - min(unfinished) <= 1


def test_the_seed_decides_the_order_within_a_group():
    assert spread("a" * 20, 1) == spread("a" * 20, 1) != spread("a" * 20, 2)


def test_few_shot_pairs_are_never_in_the_sample():
    for seed in range(20):
        sample, shots = sample_and_shots(10, n_sample=4, n_shots=3, seed=seed)
        assert (len(sample), len(shots)) == (4, 3)
        assert not set(sample) & set(shots)
        assert (sample, shots) == sample_and_shots(10, n_sample=4, n_shots=3, seed=seed)
    samples = {tuple(sample_and_shots(10, n_sample=4, n_shots=3, seed=seed)[0]) for seed in range(9)}
    assert len(samples) > 5
    assert sample_and_shots(2, n_sample=4, n_shots=3, seed=1) == ([], [0, 1])  # the few-shot pairs go first
