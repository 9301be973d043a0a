"""Token counts of served models, without a network."""

import subprocess
import sys

import pytest
import tiktoken

from radit_job.model_ref import ModelRef
from radit_job.models.openai_api.tokens import ServedTokens, encoding_name
from radit_job.models.token_counter import open_token_counter
from radit_job.records import Message

TEXT = "Retrieval-augmented dual instruction tuning, in two halves. <|endoftext|>"


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1-mini-2025-04-14", "o200k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("ft:gpt-4.1-mini-2025-04-14:me::7", "o200k_base"),  # tiktoken's own table takes it for a gpt-4
        ("ft:gpt-3.5-turbo-0125:me:name:7", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("meta-llama/Llama-3.1-8B-Instruct", None),
    ],
)
def test_openais_models_have_their_own_vocabulary(model: str, encoding: str | None) -> None:
    assert encoding_name(model) == encoding
    assert ServedTokens(ModelRef("openai", model)).is_exact == (encoding is not None)


def test_a_conversation_is_counted_as_in_openais_cookbook() -> None:
    tokens = ServedTokens(ModelRef("openai", "gpt-4o"))
    conversation = [Message("system", "Be brief."), Message("user", TEXT)]
    encode = tiktoken.get_encoding("o200k_base").encode_ordinary
    assert tokens.n_prompt(conversation) == sum(3 + 1 + len(encode(m.content)) for m in conversation) + 3


def test_an_estimate_has_a_margin_and_an_exact_count_none() -> None:
    assert ServedTokens(ModelRef("openai", "gpt-4o")).margin == 1.0
    assert ServedTokens(ModelRef("openai", "mistral")).margin > 2.0


def test_the_counter_of_a_served_embedder_is_its_tokenizer_or_openais() -> None:
    served = open_token_counter(ModelRef("openai", "bge", tokenizer="all-minilm-l6-v2"))
    assert served(TEXT) == open_token_counter(ModelRef("packaged", "all-minilm-l6-v2"))(TEXT)
    openais = open_token_counter(ModelRef("openai", "text-embedding-3-small"))
    assert openais(TEXT) == len(tiktoken.get_encoding("cl100k_base").encode_ordinary(TEXT))


def test_counting_needs_no_network_and_no_heavy_library() -> None:
    code = """
import os, socket, sys
def no(*a, **k): raise AssertionError("network")
socket.create_connection = socket.socket.connect = no
from radit_job.model_ref import ModelRef
from radit_job.models.openai_api.tokens import ServedTokens
print(ServedTokens(ModelRef("openai", "gpt-4o-mini")).n_text("one two three"))
print([name for name in ("torch", "transformers", "llama_index", "openai") if name in sys.modules])
print("TIKTOKEN_CACHE_DIR" in os.environ)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:3] == ["3", "[]", "False"]
