"""How prefilled prompts go on: the next token of each row, until it has ended.

Rows are batched step by step (Yu et al., Orca, OSDI 2022, section 3.1): one that has ended leaves, and those of the
next prefill join the others. The packaged model on two cores takes 20 ms a row and step with 8 rows and 11 with 32;
prefill is the fastest with few prompts: so four batches of prompts are decoded together. The answers to 64 questions
with their chunks: 35 s of decoding, against 78 with batches that stay apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch

from radit_job.hashing import digest
from radit_job.models.free_memory import free_bytes
from radit_job.models.prefill import Prefill
from radit_job.models.roomy_cache import can_join, join, make_room, n_bytes

DECODED_BATCHES = 4  # of prompts, together
SHARE_OF_MEMORY = 0.5  # of what is free, for keys and values


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


def generate(
    model: Any,
    prefills: Iterable[tuple[Sequence[int], Prefill]],
    *,
    batch_size: int,
    longest: int,
    max_new_tokens: int,
    draw: Sampler,
    end_ids: Collection[int],
) -> Iterator[tuple[int, list[int]]]:
    """(row, its new tokens, the end token included), as rows end.

    `prefills` are of `batch_size` rows at most; each is asked for when there is room for it, and is used up. `longest`
    is the number of tokens of the longest prompt.
    """
    decoder = Decoder(model, batch_size, longest + max_new_tokens, max_new_tokens, draw, end_ids)
    for rows, prefill in prefills:
        yield from decoder.join(rows, prefill)
        while not decoder.has_room():
            yield from decoder.step()
    while decoder.rows:
        yield from decoder.step()


class Decoder:
    """Rows that are decoded together: their keys and values, right-aligned, and the tokens that each has so far."""

    def __init__(
        self,
        model: Any,
        batch_size: int,
        most_positions: int,
        max_new_tokens: int,
        draw: Sampler,
        end_ids: Collection[int],
    ) -> None:
        self.rows: list[int] = []
        self._model = model
        self._batch_size = batch_size
        self._most_positions = most_positions  # of a prompt and its answer
        self._max_new_tokens = max_new_tokens
        self._draw = draw
        self._end_ids = end_ids
        self._tokens: dict[int, list[int]] = {}
        self._cache: Any = None
        self._mask = torch.empty(0)  # [rows, positions]
        self._most_rows: int | None = None

    def has_room(self) -> bool:
        """Whether a batch of prompts may join."""
        if not self.rows:
            return True
        if self._most_rows is None:
            self._most_rows = self._rows_that_fit()
        return len(self.rows) + self._batch_size <= self._most_rows

    @torch.inference_mode()
    def join(self, rows: Sequence[int], prefill: Prefill) -> list[tuple[int, list[int]]]:
        """Draw the new rows' first token, and take them in; returns those for which it is the last."""
        self._tokens |= {row: [] for row in rows}
        going, ended = self._draw_next(prefill.next_logits, rows)
        new = [rows[slot] for slot in going]
        if not new:
            return ended
        cache, mask = prefill.cache, prefill.mask
        if len(new) < len(rows):
            kept = torch.tensor(going, device=mask.device)
            cache.batch_select_indices(kept)
            mask = mask[kept]
        if self.rows:
            self._mask = join(self._cache, self._mask, cache, mask, self._max_new_tokens)
        else:
            make_room(cache, self._max_new_tokens)
            self._cache, self._mask = cache, mask
        self.rows += new
        return ended

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[int]]]:
        """The next token of every row; returns those that have ended, which leave."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        out = self._model(
            input_ids=torch.tensor([[self._tokens[row][-1]] for row in self.rows], device=self._mask.device),
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        going, ended = self._draw_next(out.logits[:, -1].float(), self.rows)
        if ended:
            self.rows = [self.rows[slot] for slot in going]
        if ended and going:  # some layers cannot give rows away, so the last ones go with their cache
            kept = torch.tensor(going, dtype=torch.long, device=self._mask.device)
            self._cache.batch_select_indices(kept)
            self._mask = self._mask[kept]
        return ended

    def _draw_next(self, logits: torch.Tensor, rows: Sequence[int]) -> tuple[list[int], list[tuple[int, list[int]]]]:
        """The slots of the rows that go on, and the rows that have ended; `logits` is [rows, vocabulary]."""
        going, ended = [], []
        for slot, (row, token) in enumerate(zip(rows, self._draw(logits, list(rows)), strict=True)):
            tokens = self._tokens[row]
            tokens.append(token)
            if token in self._end_ids or len(tokens) >= self._max_new_tokens:
                ended.append((row, self._tokens.pop(row)))
            else:
                going.append(slot)
        return going, ended

    def _rows_that_fit(self) -> int:
        """How many rows are decoded at once, if all were as long as the longest."""
        if not can_join(self._cache):
            return 0
        row_bytes = n_bytes(self._cache) / self._mask.numel() * self._most_positions
        n_fit = int(SHARE_OF_MEMORY * free_bytes(self._mask.device) / row_bytes)
        return min(DECODED_BATCHES * self._batch_size, n_fit)
