"""Seeded draws: spread evenly over groups, and samples that share nothing."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence


def spread(groups: Sequence[Hashable], seed: int) -> list[int]:
    """An order of all items (their positions) in which every prefix takes as evenly from all groups as can be.

    Groups and the items within them are shuffled by the seed; then one item of each group in turn.
    """
    rng = random.Random(seed)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    queues = list(members.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    order: list[int] = []
    for turn in range(max(map(len, queues), default=0)):
        order += [queue[turn] for queue in queues if turn < len(queue)]
    return order


def sample_and_shots(n_items: int, *, n_sample: int, n_shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions of a sample, and of few-shot pairs that are none of it; ascending each, and the pairs go first."""
    order = list(range(n_items))
    random.Random(f"{seed}/answer").shuffle(order)
    return sorted(order[n_shots : n_shots + n_sample]), sorted(order[:n_shots])
