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

    def _show(self, n_positions: int) -> None:
        self.keys, self.values = self._key_room[:, :, :n_positions], self._value_room[:, :, :n_positions]


def make_room(cache: DynamicCache, n_more: int) -> None:
    """Give the cache's layers of full attention room for `n_more` tokens; the others have what they need."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[number] = RoomyLayer(layer, n_more)


def _with_room(kept: torch.Tensor, n_more: int) -> torch.Tensor:
    batch, heads, positions, dimension = kept.shape
    room = kept.new_empty(batch, heads, positions + n_more, dimension)
    room[:, :, :positions] = kept
    return room
