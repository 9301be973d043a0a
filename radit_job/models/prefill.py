"""A batch of prompts, computed: their keys and values, from which answers and scores go on.

Prompts are left-padded to the longest. What they go on from, a prefix that is computed already, may be another one for
each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

MIN_SHARED_PREFIX = 8  # tokens; below it, keeping a prefix costs more than it saves
PADDING_ID = 0  # any token will do: padding is masked by position


class Prefill:
    """A batch of prompts, computed: their keys and values, which positions are real, and the logits that follow."""

    def __init__(self, cache: Any, mask: torch.Tensor, next_logits: torch.Tensor) -> None:
        self.cache = cache
        self.mask = mask  # [batch, positions], 1 where a prompt has a token
        self.next_logits = next_logits  # [batch, vocabulary] float32


@torch.inference_mode()
def read_prefix(model: Any, prefix: list[int]) -> Any:
    """The cache [1, prefix] behind which several prompts go on."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prefix], device=model.device)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


@torch.inference_mode()
def prefill(
    model: Any, prompts: Sequence[list[int]], prefixes: Any = None, prefix_mask: torch.Tensor | None = None
) -> Prefill:
    """One batch. `prompts` are what follows the prefixes, of which the cache `prefixes` has a row for each, as has
    `prefix_mask` [batch, positions]; both are used up.
    """
    cache = DynamicCache(config=model.config) if prefixes is None else prefixes
    width = max(map(len, prompts))
    padded = [[PADDING_ID] * (width - len(prompt)) + prompt for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    mask = torch.tensor(real, device=model.device)
    if prefix_mask is not None:
        mask = torch.cat([prefix_mask, mask], dim=1)  # [batch, prefix + width]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=mask,
        position_ids=positions[:, -width:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefill(cache, mask, out.logits[:, -1].float())


def rows_of(cache: Any, rows: Sequence[int]) -> Any:
    """The cache's given rows, each as often as it is named, as a cache of their own; the given one stays as it is.

    Only for layers of full attention, which replace their tensors and never write into them.
    """
    taken = copy.copy(cache)
    taken.layers = [copy.copy(layer) for layer in cache.layers]
    taken.batch_select_indices(torch.tensor(rows, device=taken.layers[0].keys.device))
    return taken


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; at least one token of each stays outside."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # what the first and the last in order share, all between them share too
    longest = min(map(len, prompts)) - 1
    shared = next((i for i in range(longest) if first[i] != last[i]), longest)
    return shared if shared >= MIN_SHARED_PREFIX else 0


def has_window(model: Any) -> bool:
    """Whether some layer looks back a limited number of positions: padding behind a shared prefix would use them up."""
    config = model.config.get_text_config()
    if layers := getattr(config, "layer_types", None):
        return any(layer != "full_attention" for layer in layers)
    return bool(getattr(config, "sliding_window", None))
