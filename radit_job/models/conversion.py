"""A packaged model as a folder that transformers opens.

The language model is packaged as GGUF with 4-bit weights. transformers reads it, but takes half a minute and then
refuses to save it; so it is dequantized once into a folder of the user's cache, and opens in a second from then on.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from radit_job import observe
from radit_job.errors import InputError
from radit_job.hashing import digest_file
from radit_job.models.packaged import cache_folder, packaged_weights


def packaged_folder(name: str) -> Path:
    """The packaged model as a folder that transformers opens; the first call for a GGUF converts it (half a minute)."""
    weights = packaged_weights(name)
    if weights.suffix != ".gguf":
        return weights.parent
    folder = cache_folder() / digest_file(weights).removeprefix("sha256:")
    if not folder.exists():
        _convert(weights, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` as float32 safetensors to `folder`: whole or not at all, whoever else does the same at once."""
    observe.log(
        "converting the packaged language model once; this takes half a minute", file=gguf.name, folder=str(folder)
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"the packaged model cannot be converted: {error.strerror}",
            where=str(folder.parent),
            todo="set XDG_CACHE_HOME to a folder that can be written (600 MB)",
        ) from error
    try:
        _save_dequantized(gguf, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _save_dequantized(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    _forget_quantization(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _forget_quantization(model: Any) -> None:
    """The weights are plain float32 now, but save_pretrained refuses as long as the model says that it is quantized."""
    del model.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)
