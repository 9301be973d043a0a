"""Keys and values with room for the tokens to come.

transformers' DynamicLayer copies all of them for each new token: 30 % of a step's time with 8 prompts of 560 tokens
on a CPU. Its StaticLayer has room, but attends to all of it, and none of its rows can leave the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer of full attention that writes new keys and values behind the old ones, in place."""

    def __init__(self, layer: DynamicLayer, n_more: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._key_room, self._value_room = _with_room(layer.keys, n_more), _with_room(layer.values, n_more)
        self._show(layer.get_seq_length())

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both are [batch, heads, new positions, head dimension]; returns all positions so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._key_room.shape[-2]:  # more than was announced
            self._key_room, self._value_room = (_with_room(kept, end - start) for kept in (self.keys, self.values))
        self._key_room[:, :, start:end] = key_states
        self._value_room[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch only."""
        self._key_room, self._value_room = self._key_room[indices], self._value_room[indices]
        self._show(self.get_seq_length())

    def join(self, other: DynamicLayer, first: int, positions: int, n_more: int) -> None:
        """Take the other layer's rows in; all end at `positions`, and ours lose what stands before `first`."""
        self._key_room = _stacked(self.keys[:, :, first:], other.keys, positions, n_more)
        self._value_room = _stacked(self.values[:, :, first:], other.values, positions, n_more)
        self._show(positions)

    def _show(self, n_positions: int) -> None:
        self.keys, self.values = self._key_room[:, :, :n_positions], self._value_room[:, :, :n_positions]


def make_room(cache: DynamicCache, n_more: int) -> None:
    """Give the cache's layers of full attention room for `n_more` tokens; the others have what they need."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[number] = RoomyLayer(layer, n_more)


def can_join(cache: DynamicCache) -> bool:
    """Whether rows may join behind padding: a window would be used up by it, and other layers hold no positions."""
    return all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)


def n_bytes(cache: DynamicCache) -> int:
    """Of the keys and values of all rows."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def join(
    cache: DynamicCache, mask: torch.Tensor, other: DynamicCache, other_mask: torch.Tensor, n_more: int
) -> torch.Tensor:
    """Take the other cache's rows into `cache`, with room for `n_more` tokens; returns the mask of all rows.

    Both are right-aligned; the masks are [rows, positions], 1 where a row has a token. Positions where no row of
    `cache` has one any more are dropped.
    """
    first = int(mask.argmax(1).min())
    kept = mask[:, first:]
    positions = max(kept.shape[1], other_mask.shape[1])
    for ours, theirs in zip(cache.layers, other.layers, strict=True):
        ours.join(theirs, first, positions, n_more)
    return torch.cat([_right_aligned(one, positions) for one in (kept, other_mask)])


def _right_aligned(mask: torch.Tensor, positions: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (positions - mask.shape[1], 0))


def _stacked(ours: torch.Tensor, theirs: torch.Tensor, positions: int, n_more: int) -> torch.Tensor:
    """Both one above the other, right-aligned; zeros where they have none, for what is masked must be a number."""
    room = ours.new_empty(len(ours) + len(theirs), ours.shape[1], positions + n_more, ours.shape[3])
    for part, rows in ((ours, slice(0, len(ours))), (theirs, slice(len(ours), None))):
        start = positions - part.shape[2]
        room[rows, :, :start] = 0
        room[rows, :, start:positions] = part
    return room


def _with_room(kept: torch.Tensor, n_more: int) -> torch.Tensor:
    batch, heads, positions, dimension = kept.shape
    room = kept.new_empty(batch, heads, positions + n_more, dimension)
    room[:, :, :positions] = kept
    return room
