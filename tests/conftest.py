"""Fixtures shared by all tests: a model so small that it trains in a second, and no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one thread makes results equal to the bit

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.seaweedfs import SeaweedFS

if TYPE_CHECKING:
    from radit_job.models.huggingface import HuggingFaceLM


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server with authentication, for the whole session; started when the first test asks for it."""
    with SeaweedFS.started(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SeaweedFS:
    """The server, with its credentials in the environment, and this test's own scratch folder."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RADIT_SCRATCH", str(tmp_path / "scratch"))
    return s3_server


@pytest.fixture(scope="session")
def tiny_lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with the packaged model's tokenizer and chat template, as save_pretrained writes it."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from radit_job.models.conversion import packaged_folder

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-lm")
    tokenizer = AutoTokenizer.from_pretrained(packaged_folder("smollm2-135m-instruct"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,  # large enough that greedy answers differ between prompts
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sliding_window_lm(tiny_lm_folder: Path) -> "HuggingFaceLM":
    """A random two-layer Mistral that looks back 48 positions, with the tiny model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    from radit_job.models.huggingface import HuggingFaceLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_folder)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        sliding_window=48,
        eos_token_id=tokenizer.eos_token_id,
    )
    return HuggingFaceLM(MistralForCausalLM(config), tokenizer)
