"""Splitting so that nothing stands on both sides: groups that must stay together, and the share of each side."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from radit_job.records import Question


def connected_groups(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Items (their positions) that share a key, directly or through others, in one group (union-find)."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first_with: dict[Hashable, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            other = first_with.setdefault(key, item)
            parent[root(item)] = root(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for item in range(len(keys)):
        groups[root(item)].append(item)
    return list(groups.values())


def passage(question: Question) -> tuple[str, ...]:
    """The chunks that a question is about, as far as they are known, whether or not they hold its answer."""
    return (*question.chunk_ids, *question.passage_chunk_ids)


def group_names(questions: Sequence[Question]) -> list[str]:
    """Each question's group: those whose passages share a chunk, directly or through others, have one name."""
    names = [""] * len(questions)
    passages = [passage(question) for question in questions]
    for members in connected_groups(passages):
        first = members[0]
        for member in members:
            names[member] = passages[first][0] if passages[first] else questions[first].question_id
    return names


def choose_groups(sizes: Sequence[int], share: float, seed: int) -> set[int]:
    """Groups whose sizes add up as near to `share` of the whole as any choice can, drawn by the seed.

    At least one group is chosen and one is left; needs two groups. Exact subset sum: `reached_by[s]` is the group, in
    shuffled order, with which the sum s first became possible. Takes len(sizes) x sum(sizes) steps of numpy.
    """
    if len(sizes) < 2:
        raise ValueError("one group cannot stand on two sides")
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    total = sum(sizes)
    target = share * total
    reached_by = np.full(total + 1, -1, dtype=np.int64)
    reached = np.zeros(total + 1, dtype=bool)
    reached[0] = True
    for turn, group in enumerate(order):
        new = np.zeros_like(reached)
        new[sizes[group] :] = reached[: total + 1 - sizes[group]]
        new &= ~reached
        reached_by[new] = turn
        reached |= new
    possible = np.flatnonzero(reached[1:total]) + 1  # neither side empty
    amount = int(possible[np.argmin(np.abs(possible - target))])
    chosen = set()
    while amount:
        group = order[int(reached_by[amount])]
        chosen.add(group)
        amount -= sizes[group]
    return chosen
