"""Which examples make each step, and how they become tensors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from radit_job.training.examples import EncodedExample

POOL_BATCHES = 8  # batches are cut from pools of this many, sorted by length: little padding, and still a random order


@dataclass(frozen=True, slots=True)
class Tensors:
    """One forward pass. Rows are padded on the right, where causal attention never looks, so no mask is needed."""

    input_ids: torch.Tensor  # [rows, width]
    positions: torch.Tensor  # [kept]: the columns whose logits predict some row's answer token
    rows: torch.Tensor  # [answer tokens]: the row of each answer token
    columns: torch.Tensor  # [answer tokens]: its place in `positions`
    targets: torch.Tensor  # [answer tokens]: the token itself


def epoch_batches(examples: Sequence[EncodedExample], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of row numbers: every example once, similar lengths together, in an order drawn anew."""
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    pool = batch_size * POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        rows = sorted(order[start : start + pool], key=lambda row: len(examples[row].ids))
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    rng.shuffle(batches)
    return batches


@dataclass(frozen=True, slots=True)
class Pass:
    """One process's part of one forward pass, while the others do theirs."""

    examples: Sequence[EncodedExample]
    counts: bool  # False: it had none left, and computes one only to keep step
    n_examples: int  # in all processes together


def shared_passes(examples: Sequence[EncodedExample], n_rows: int, rank: int, size: int) -> list[Pass]:
    """The forward passes of process `rank` of `size`: equally many for each, of at most `n_rows` rows, each row once.

    Several processes wait for one another in each pass, so the rows of one are of like length.
    """
    rows = list(examples)
    if size > 1:
        rows.sort(key=lambda example: -len(example.ids))  # stable: all processes find the same order
    passes = []
    for start in range(0, len(rows), n_rows * size):
        together = rows[start : start + n_rows * size]
        own = together[rank::size]
        passes.append(Pass(own or rows[-1:], bool(own), len(together)))
    return passes


def collate(examples: Sequence[EncodedExample], device: torch.device) -> Tensors:
    """The examples as the tensors of one forward pass; ids of the padding do not matter, for nothing looks at them."""
    width = max(len(example.ids) for example in examples)
    padded = [[*example.ids, *[0] * (width - len(example.ids))] for example in examples]
    # The logits at column c predict the token at c + 1.
    wanted = [
        (row, column)
        for row, example in enumerate(examples)
        for column in range(example.n_prompt_tokens - 1, len(example.ids) - 1)
    ]
    kept = sorted({column for _, column in wanted})
    place = {column: index for index, column in enumerate(kept)}
    return Tensors(
        input_ids=torch.tensor(padded, device=device),
        positions=torch.tensor(kept, device=device),
        rows=torch.tensor([row for row, _ in wanted], device=device),
        columns=torch.tensor([place[column] for _, column in wanted], device=device),
        targets=torch.tensor([examples[row].ids[column + 1] for row, column in wanted], device=device),
    )
