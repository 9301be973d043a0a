"""Rows that are decoded together: of which models, and how many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM

from radit_job.models import decoding
from radit_job.models.prefill import prefill
from radit_job.models.roomy_cache import n_bytes

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def answers(model: Any, prompts: list[list[int]], *, longest: int, n: int) -> dict[int, list[int]]:
    """Each prompt a batch of its own."""
    draw = decoding.Sampler(0, [(0, row) for row in range(len(prompts))])
    batches = (([row], prefill(model, [prompt])) for row, prompt in enumerate(prompts))
    found = decoding.generate(model, batches, batch_size=1, longest=longest, max_new_tokens=n, draw=draw, end_ids=set())
    return dict(found)


def test_layers_that_hold_no_positions_answer_one_prompt_after_the_other() -> None:
    torch.manual_seed(0)
    layers = ["conv", "full_attention"]
    model = Lfm2ForCausalLM(Lfm2Config(num_hidden_layers=2, layer_types=layers, **SIZES)).eval()
    prompts = [[1, 2, 3], [4, 5, 6, 7]]
    expected = {
        row: model.generate(torch.tensor([prompt]), max_new_tokens=4, min_new_tokens=4, do_sample=False)[
            0, len(prompt) :
        ].tolist()
        for row, prompt in enumerate(prompts)
    }
    assert answers(model, prompts, longest=4, n=4) == expected


@pytest.mark.parametrize("n_fit", [1, 2, 3])
def test_rows_to_come_may_be_longer_than_the_first(monkeypatch: pytest.MonkeyPatch, n_fit: int) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **SIZES)).eval()
    prompts = [[7] * 4, *([[8] * 60] * 3)]
    position_bytes = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, dimension, float32
    allowed = n_fit * (60 + 8) * position_bytes
    monkeypatch.setattr(decoding, "free_bytes", lambda device: allowed / decoding.SHARE_OF_MEMORY)
    taken = []
    forward = model.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        taken.append(n_bytes(kwargs["past_key_values"]))
        return out

    monkeypatch.setattr(model, "forward", watched)
    answers(model, prompts, longest=60, n=8)
    assert allowed / 2 < max(taken) <= allowed
