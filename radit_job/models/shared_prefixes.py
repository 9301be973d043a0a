"""What several prompts begin with, computed once.

All of them share the head: the system message, the few-shot turns, the template's start. Those that ask about the same
chunk share that chunk, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from radit_job.models.prefill import Prefill, has_window, prefill, read_prefix, rows_of, shared_prefix
from radit_job.models.prefix_groups import PrefixGroup, group_by_prefix

# By a group's own prefix. Measured with the packaged model on one core: 8 to 24 saved tokens give 0.95 to 1.08 times
# the speed, 32 between 0.96 and 1.09, 64 1.16, 256 1.56; the extra pass and the copies of the cache cost the rest.
MIN_SAVED_TOKENS = 32
PREFIXES_PER_PROMPT = 4  # of a batch, at most at once, however short they are: each has logits of the whole vocabulary


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Computed beginnings of prompts: a row of keys and values for each."""

    cache: Any | None  # None: they are empty
    mask: torch.Tensor  # [prefixes, positions], 1 where a prefix has a token

    def rows(self, numbers: Sequence[int]) -> tuple[Any | None, torch.Tensor]:
        """The cache and the mask with a row for each of the given prefixes, to be written behind."""
        return None if self.cache is None else rows_of(self.cache, numbers), self.mask[list(numbers)]


@dataclass(frozen=True, slots=True)
class Head(Prefixes):
    """The one prefix that all prompts have."""

    n_tokens: int


@dataclass(frozen=True, slots=True)
class Follower:
    """A prompt that goes on behind one of the prefixes."""

    row: int  # of the prompts
    prefix: int  # of the prefixes
    n_shared: int  # tokens of the prompt that its prefix holds


def read_head(model: Any, prompts: Sequence[list[int]]) -> Head:
    """What all prompts begin with; nothing for models that forget, whose window the padding behind it would use up."""
    n_tokens = 0 if has_window(model) else shared_prefix(prompts)
    cache = read_prefix(model, prompts[0][:n_tokens]) if n_tokens else None
    return Head(cache, torch.ones(1, n_tokens, dtype=torch.long, device=model.device), n_tokens)


@torch.inference_mode()
def by_prefix(model: Any, prompts: Sequence[list[int]], batch_size: int) -> Iterator[tuple[Prefixes, list[Follower]]]:
    """Every prompt once, with the prefixes that it and its companions go on from; the longest prefixes first.

    Last come the prompts that share the head alone.
    """
    if not prompts:
        return
    head = read_head(model, prompts)
    groups = [] if has_window(model) else group_by_prefix(prompts, head.n_tokens, MIN_SAVED_TOKENS)
    sharing = sorted((group for group in groups if len(group.rows) > 1), key=lambda group: -group.n_shared)
    n_most_tokens = batch_size * max(map(len, prompts))  # prefixes at once need no more memory than a batch of prompts
    waiting = sharing
    while waiting:
        n_at_once = min(n_most_tokens // waiting[0].n_shared, PREFIXES_PER_PROMPT * batch_size)
        yield _read_groups(model, prompts, waiting[:n_at_once], head)
        waiting = waiting[n_at_once:]
    shared = {row for group in sharing for row in group.rows}
    alone = [Follower(row, 0, head.n_tokens) for row in range(len(prompts)) if row not in shared]
    if alone:
        yield head, alone


def _read_groups(
    model: Any, prompts: Sequence[list[int]], groups: Sequence[PrefixGroup], head: Head
) -> tuple[Prefixes, list[Follower]]:
    """The groups' prefixes, and all their prompts."""
    own = [prompts[group.rows[0]][head.n_tokens : group.n_shared] for group in groups]
    followers = [Follower(row, number, group.n_shared) for number, group in enumerate(groups) for row in group.rows]
    read = prefill(model, own, *head.rows([0] * len(own)))
    return Prefixes(read.cache, read.mask), followers


@torch.inference_mode()
def prefills(model: Any, prompts: Sequence[list[int]], batch_size: int) -> Iterator[tuple[list[int], Prefill]]:
    """(rows, their prefill): batches of prompts that go on from the same prefixes, of similar length, longest first."""
    for prefixes, followers in by_prefix(model, prompts, batch_size):
        waiting = sorted(followers, key=lambda one: (one.n_shared - len(prompts[one.row]), one.row))
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            rests = [prompts[one.row][one.n_shared :] for one in batch]
            cache, mask = prefixes.rows([one.prefix for one in batch])
            yield [one.row for one in batch], prefill(model, rests, cache, mask)
