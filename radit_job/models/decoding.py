"""How a batch of prefilled prompts goes on: the next token of each row, until all have ended."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from radit_job.hashing import digest
from radit_job.models.prefill import Prefill
from radit_job.models.roomy_cache import make_room


class Sampler:
    """Draws each row's next token; every row has a random generator of its own, so its batch does not matter."""

    def __init__(self, temperature: float, seeds: list[tuple[int, int]]) -> None:
        self.temperature = temperature
        self._random = [torch.Generator().manual_seed(int(digest(list(seed))[7:22], 16)) for seed in seeds]

    def __call__(self, logits: torch.Tensor, rows: list[int]) -> list[int]:
        """The next token of each given row; `logits` is [rows, vocabulary]."""
        if self.temperature == 0:
            return [int(token) for token in logits.argmax(1).tolist()]
        shares = (logits / self.temperature).softmax(1).cpu()
        return [
            int(torch.multinomial(share, 1, generator=self._random[row]))
            for share, row in zip(shares, rows, strict=True)
        ]


@torch.inference_mode()
def generate(
    model: Any, prefill: Prefill, max_new_tokens: int, draw: Sampler, end_ids: Collection[int]
) -> list[list[int]]:
    """New tokens of each row, the end token included. Rows that have ended leave the batch. Uses the prefill up."""
    cache, mask, logits = prefill.cache, prefill.mask, prefill.next_logits
    generated: list[list[int]] = [[] for _ in range(len(mask))]
    active = list(range(len(mask)))
    make_room(cache, max_new_tokens)
    while True:
        drawn = draw(logits, active)
        going = []
        for slot, (row, token) in enumerate(zip(active, drawn, strict=True)):
            generated[row].append(token)
            if token not in end_ids and len(generated[row]) < max_new_tokens:
                going.append(slot)
        if not going:
            return generated
        if len(going) < len(active):
            kept = torch.tensor(going, device=mask.device)
            cache.batch_select_indices(kept)
            mask = mask[kept]
            active = [active[slot] for slot in going]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        out = model(
            input_ids=torch.tensor([[generated[row][-1]] for row in active], device=mask.device),
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1].float()  # [active, vocabulary]
