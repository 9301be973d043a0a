"""How likely given answers are after given prompts: for many pairs at once, or behind a prefill.

What several prompts begin with is computed once: all of them share the system message and the template's start, and
those that ask about the same chunk share that chunk, too. Behind it the rest of each pair's prompt and its answer are
read together in one forward pass, with logits only where they predict the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from radit_job.models.base import AnswerScore, OnDone
from radit_job.models.prefill import PADDING_ID, Prefill, has_window
from radit_job.models.shared_prefixes import Prefixes, by_prefix, prefills

MAX_LOGITS = 2**25  # computed at once: 128 MiB of float32


@dataclass(frozen=True, slots=True)
class Pair:
    """What is read of one pair, and behind which row of a prefix cache."""

    row: int
    prefix: int  # its row among the prefixes
    rest: list[int]  # the prompt behind the prefix, and the answer but for its last token, which predicts nothing here
    target: list[int]


def score_pairs(
    model: Any,
    prompts: Sequence[list[int]],
    targets: Sequence[list[int]],
    batch_size: int,
    on_done: OnDone | None = None,
) -> list[AnswerScore]:
    """Each target's log-probability after its prompt, in their order; all of at least one token."""
    scores: dict[int, AnswerScore] = {}
    n_vocabulary = model.get_output_embeddings().weight.shape[0]
    long = {row for row, target in enumerate(targets) if len(target) * n_vocabulary > MAX_LOGITS}
    old = list(range(len(prompts))) if has_window(model) else sorted(long)
    new = [] if has_window(model) else [row for row in range(len(prompts)) if row not in long]
    for found in (
        _by_prefills(model, prompts, targets, old, batch_size),
        _by_groups(model, prompts, targets, new, batch_size, MAX_LOGITS // n_vocabulary),
    ):
        for rows, values in found:
            scores.update(zip(rows, values, strict=True))
            if on_done:
                on_done(len(rows))
    return [scores[row] for row in range(len(prompts))]


Scored = Iterator[tuple[list[int], list[AnswerScore]]]


def _by_prefills(
    model: Any, prompts: Sequence[list[int]], targets: Sequence[list[int]], chosen: list[int], batch_size: int
) -> Scored:
    """For models that forget, and for answers whose logits do not fit the memory: prompts first, then answers."""
    for places, done in prefills(model, [prompts[row] for row in chosen], batch_size):
        rows = [chosen[place] for place in places]
        yield rows, score_behind(model, done, [targets[row] for row in rows])


@torch.inference_mode()
def _by_groups(
    model: Any,
    prompts: Sequence[list[int]],
    targets: Sequence[list[int]],
    chosen: list[int],
    batch_size: int,
    max_places: int,
) -> Scored:
    """Groups of prompts that begin alike, the longest prefixes first; last the pairs that only share what all do."""
    for prefixes, followers in by_prefix(model, [prompts[row] for row in chosen], batch_size):
        pairs = []
        for one in followers:
            row = chosen[one.row]
            rest = prompts[row][one.n_shared :] + targets[row][:-1]
            pairs.append(Pair(row, one.prefix, rest, targets[row]))
        yield from _batches(model, pairs, prefixes, batch_size, max_places)


def _batches(model: Any, pairs: list[Pair], prefixes: Prefixes, batch_size: int, max_places: int) -> Scored:
    """The pairs in batches of similar length, longest first, whose logits fit the memory."""
    waiting = sorted(pairs, key=lambda pair: (-len(pair.rest), -len(pair.target), pair.row))
    while waiting:
        n = min(batch_size, len(waiting))
        while n > 1 and n * max(len(pair.target) for pair in waiting[:n]) > max_places:
            n -= 1
        batch, waiting = waiting[:n], waiting[n:]
        yield [pair.row for pair in batch], _score_batch(model, batch, prefixes)


def _score_batch(model: Any, pairs: list[Pair], prefixes: Prefixes) -> list[AnswerScore]:
    """One forward pass behind the cached prefixes; padded on the left, so that all answers end in the last column."""
    device = model.device
    width = max(len(pair.rest) for pair in pairs)
    longest = max(len(pair.target) for pair in pairs)
    cache, prefix_mask = prefixes.rows([pair.prefix for pair in pairs])
    ids = [[PADDING_ID] * (width - len(pair.rest)) + pair.rest for pair in pairs]
    real = [[0] * (width - len(pair.rest)) + [1] * len(pair.rest) for pair in pairs]
    mask = torch.cat([prefix_mask, torch.tensor(real, device=device)], dim=1)  # [batch, prefix + width]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=mask,
        position_ids=positions[:, -width:],
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=torch.arange(width - longest, width, device=device),
    )
    wanted = [[PADDING_ID] * (longest - len(pair.target)) + pair.target for pair in pairs]
    counted = [[0] * (longest - len(pair.target)) + [1] * len(pair.target) for pair in pairs]
    found = _log_probabilities(out.logits.float(), torch.tensor(wanted, device=device))  # [batch, longest]
    sums = (found.double() * torch.tensor(counted, device=device)).sum(1).tolist()
    return [AnswerScore(total, len(pair.target)) for total, pair in zip(sums, pairs, strict=True)]


def score_behind(model: Any, prefill: Prefill, targets: list[list[int]]) -> list[AnswerScore]:
    """Log-probabilities of the targets after prompts that are computed already; the prefill stays as it is."""
    sums = token_log_probabilities(model, prefill, targets).sum(1).tolist()
    return [AnswerScore(total, len(target)) for total, target in zip(sums, targets, strict=True)]


@torch.inference_mode()
def token_log_probabilities(model: Any, prefill: Prefill, targets: list[list[int]]) -> torch.Tensor:
    """Of each target's tokens in nats, [batch, longest target] float64, 0 behind a target's end.

    The targets are read a few positions at a time, for the logits of all of them may not fit the memory.
    """
    width = max(map(len, targets))
    device = model.device
    padded = torch.tensor([target + [PADDING_ID] * (width - len(target)) for target in targets], device=device)
    real = torch.tensor([[1] * len(target) + [0] * (width - len(target)) for target in targets], device=device)
    mask = torch.cat([prefill.mask, real], dim=1)  # [batch, prompt + width]
    positions = mask.cumsum(1) - 1
    n_prompt = prefill.mask.shape[1]
    cache = copy.deepcopy(prefill.cache)
    picked = [_log_probabilities(prefill.next_logits[:, None], padded[:, :1])]
    n_columns = max(1, MAX_LOGITS // prefill.next_logits.numel())
    for start in range(0, width - 1, n_columns):
        end = min(start + n_columns, width - 1)
        out = model(
            input_ids=padded[:, start:end],
            attention_mask=mask[:, : n_prompt + end],
            position_ids=positions[:, n_prompt + start : n_prompt + end],
            past_key_values=cache,
            use_cache=True,
        )
        picked.append(_log_probabilities(out.logits.float(), padded[:, start + 1 : end + 1]))
    return torch.cat(picked, dim=1).double() * real


def _log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of each given token, [batch, n], by the logits [batch, n, vocabulary] of its place."""
    return logits.gather(2, tokens[:, :, None])[:, :, 0] - logits.logsumexp(2)
