"""Ten paragraphs as chunks, their index by the packaged embedder, and a very small language model."""

import pytest
import torch
from facts import PARAGRAPHS, make_config
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from radit_job.config import slices
from radit_job.model_ref import ModelRef
from radit_job.models.loading import model_folder
from radit_job.records import Chunk, write_rows
from radit_job.stages import index


@pytest.fixture(scope="session")
def chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks")
    rows = [
        Chunk(f"facts.txt#{number:05d}", "facts.txt", None, 0, len(text), len(text.split()), text)
        for number, (text, _, _) in enumerate(PARAGRAPHS)
    ]
    write_rows(folder / "chunks.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def embeddings(chunks, tmp_path_factory):
    out, scratch = tmp_path_factory.mktemp("index"), tmp_path_factory.mktemp("scratch")
    index.run(slices.IndexSlice.of(make_config()), chunks=chunks, out=out, scratch=scratch)
    return out / "embeddings"


@pytest.fixture(scope="session")
def small_lm(tmp_path_factory):
    """An `lm` artifact: an untrained Llama of two layers that reads 300 tokens, with the packaged model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(
        model_folder(ModelRef("packaged", "smollm2-135m-instruct")), local_files_only=True
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=300,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("lm")
    model.save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    return folder


@pytest.fixture(scope="session")
def other_retriever(tmp_path_factory):
    """A `retriever` artifact: the packaged encoder with other weights, so that it ranks otherwise."""
    encoder = SentenceTransformer(str(model_folder(ModelRef("packaged", "all-minilm-l6-v2"))), local_files_only=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in encoder.parameters():
            weights += 0.8 * weights.std() * torch.randn_like(weights)
    folder = tmp_path_factory.mktemp("retriever")
    encoder.save_pretrained(str(folder))
    return folder


@pytest.fixture
def folders(tmp_path):
    """(out, scratch), both empty."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    return out, scratch
