"""Which token sequences begin alike, so that what they share is computed once. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Sequences with a common beginning."""

    rows: tuple[int, ...]
    n_shared: int  # tokens that all of them begin with, the ones that all sequences share included


def group_by_prefix(sequences: Sequence[Sequence[int]], n_common: int, min_saved: int) -> list[PrefixGroup]:
    """Every sequence in one group, so that the most tokens are saved; one that shares too little is alone.

    All sequences begin with the same `n_common` tokens, which are nobody's saving. A group of m that share n tokens
    behind them saves (m - 1) n, and is made if that is at least `min_saved`; one token of each stays outside.
    In sorted order what begins alike stands together, so the best groups are stretches of it, found by dynamic
    programming: best[end] = max over start of best[start] + saved(start, end).
    """
    order = sorted(range(len(sequences)), key=lambda row: (sequences[row], row))
    best = [0] * (len(order) + 1)  # tokens saved among the first so many
    starts = [0] * (len(order) + 1)  # where the last group of that choice begins
    alike = [_n_alike(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    for end in range(1, len(order) + 1):
        best[end], starts[end] = best[end - 1], end - 1
        shared = len(sequences[order[end - 1]]) - 1
        for start in range(end - 2, -1, -1):
            shared = min(shared, alike[start], len(sequences[order[start]]) - 1)
            if shared <= n_common:
                break
            saved = (end - start - 1) * (shared - n_common)
            if saved >= min_saved and best[start] + saved > best[end]:
                best[end], starts[end] = best[start] + saved, start
    groups = []
    end = len(order)
    while end:
        rows = order[starts[end] : end]
        shared = n_common if len(rows) == 1 else min(alike[starts[end] : end - 1])
        groups.append(PrefixGroup(tuple(rows), min(shared, *(len(sequences[row]) - 1 for row in rows))))
        end = starts[end]
    return groups[::-1]


def _n_alike(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (place for place, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others))
    )
