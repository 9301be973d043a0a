"""Seeded draws that are spread evenly over groups."""

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
