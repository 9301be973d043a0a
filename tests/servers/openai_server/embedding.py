"""Embeddings that make retrieval sensible: a hashed bag of words, 1 + log(count), unit length."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.servers.openai_server import tokens
from tests.servers.openai_server.errors import ApiError
from tests.servers.openai_server.text import stems

DIMENSION = 256
MAX_INPUT_TOKENS = 8192
MAX_INPUTS = 2048


def inputs_of(body: dict[str, Any]) -> list[str]:
    """The texts of a request: one or many, as text or as token ids."""
    given, model = body.get("input"), str(body["model"])
    if isinstance(given, str):
        texts = [given]
    elif isinstance(given, list) and given and all(isinstance(one, int) for one in given):
        texts = [tokens.text_of(given, model)]
    elif isinstance(given, list) and given:
        texts = [one if isinstance(one, str) else tokens.text_of(one, model) for one in given]
    else:
        texts = [""]
    if len(texts) > MAX_INPUTS or not all(texts):
        message = (
            "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )
        raise ApiError(400, message)
    for text in texts:
        n = tokens.count(text, model)
        if n > MAX_INPUT_TOKENS:
            message = (
                f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, however you requested {n} tokens "
                f"({n} in your prompt; 0 for the completion). Please reduce your prompt; or completion length."
            )
            raise ApiError(400, message)
    return texts


def embed(text: str, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """[dimension] float32 of length 1."""
    vector = np.zeros(dimension)
    for stem, count in Counter(stems(text)).items():
        at, sign = _place(stem)
        vector[at % dimension] += sign * (1.0 + np.log(count))
    norm = float(np.linalg.norm(vector))
    if norm == 0.0:
        vector[0], norm = 1.0, 1.0  # a text without words
    return (vector / norm).astype(np.float32)


def answer(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The answer to POST /v1/embeddings, and its tokens."""
    texts, model = inputs_of(body), str(body["model"])
    dimension = body.get("dimensions") or DIMENSION
    n_tokens = sum(tokens.count(text, model) for text in texts)
    rows = []
    for index, text in enumerate(texts):
        vector = embed(text, dimension)
        as_text = body.get("encoding_format") == "base64"
        value: Any = base64.b64encode(vector.tobytes()).decode() if as_text else [round(float(x), 8) for x in vector]
        rows.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": rows, "model": body["model"], "usage": usage}, n_tokens


@functools.lru_cache(maxsize=65536)
def _place(stem: str) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8).digest(), "little")
    return number >> 1, 1 if number & 1 else -1
