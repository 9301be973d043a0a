"""The least time that a machine allows for a prompt and an answer. Pure.

The roofline model (Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785): a step takes at least its
arithmetic at the machine's peak, and at least its bytes at the memory's bandwidth. A transformer's arithmetic is two
operations for each weight that a token is multiplied with (Kaplan et al. 2020, arXiv 2001.08361, table 1), and the
attention's own; its bytes are the weights, once for all that a step computes together, and the keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What of a model counts here."""

    n_body: int  # weights that every token is multiplied with; the embedding table is only looked up
    n_head: int  # those of the last layer, which are needed where a token is to follow
    bytes_per_weight: int
    kv_bytes_per_token: int  # of all layers
    attention_width: int  # query heads times their dimension, summed over the layers


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine was seen to do, in this process and with its threads."""

    bytes_per_s: float  # read from memory
    flop_per_s: float  # of a matrix product in the model's number format


@dataclass(frozen=True, slots=True)
class Work:
    """What several prompts ask of the model when they come at the same moment."""

    n_prompt_tokens: Sequence[int]
    n_completion_tokens: Sequence[int]  # of each prompt, its end token included
    n_shared: Sequence[int]  # of each prompt its first tokens that another one begins with: they need be read only once


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds."""

    prefill_s: float
    decode_s: float


def floor(size: ModelSize, machine: Machine, work: Work) -> Floor:
    """The floor of one batch: the prompts read together, then a step for each further token of the longest answer."""
    weight_bytes = (size.n_body + size.n_head) * size.bytes_per_weight
    prompts = list(zip(work.n_prompt_tokens, work.n_shared, strict=True))
    n_read = sum(n - shared for n, shared in prompts)
    # A token's scores with the tokens before it, and their sum: 2 * 2 * width operations for each pair.
    n_pairs = sum(n * n - shared * shared for n, shared in prompts) / 2
    flop = 2 * size.n_body * n_read + 2 * size.n_head * len(prompts) + 4 * size.attention_width * n_pairs
    prefill_s = max(flop / machine.flop_per_s, weight_bytes / machine.bytes_per_s)
    decode_s = 0.0
    for step in range(1, max(work.n_completion_tokens, default=0)):  # the first token comes with the prefill
        going = [row for row, n in enumerate(work.n_completion_tokens) if n > step]
        lengths = [work.n_prompt_tokens[row] + step for row in going]
        n_kept = sum(lengths) - sum(work.n_shared[row] for row in going)
        read = weight_bytes + size.kv_bytes_per_token * n_kept
        flop = 2 * (size.n_body + size.n_head) * len(lengths) + 4 * size.attention_width * sum(lengths)
        decode_s += max(read / machine.bytes_per_s, flop / machine.flop_per_s)
    return Floor(prefill_s, decode_s)


def shared_tokens(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Of each prompt how many of its first tokens stand at the beginning of one that sorts before it, too."""
    order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    shared = [0] * len(prompts)
    for before, row in pairwise(order):  # of all that sort before it, its neighbour shares the most
        pairs = zip(prompts[before], prompts[row], strict=False)
        shared[row] = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return shared
