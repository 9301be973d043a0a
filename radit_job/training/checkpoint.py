"""Checkpoints of a training run: safetensors and JSON, whole or not at all, the last one only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from radit_job import observe
from radit_job.errors import StoreError

Tensors = Mapping[str, torch.Tensor]

ADAM_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Checkpoints:
    """The checkpoints in one scratch folder: `step-<n>/` (tensors and state) and `best-<n>.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
        """Keep this step's tensors and JSON state, then forget the steps before it."""
        unfinished = self.folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write_tensors(tensors, unfinished / "tensors.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": step, **state}))
        final = self.folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        for older in self._steps():
            if older != final:
                shutil.rmtree(older)

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The last checkpoint's tensors and state, or None; an unreadable one counts as none."""
        steps = self._steps()
        if not steps:
            return None
        last = steps[-1]
        try:
            return load_file(last / "tensors.safetensors"), json.loads((last / "state.json").read_text())
        except (OSError, ValueError, SafetensorError) as error:
            observe.warn("the last checkpoint cannot be read: training begins anew", folder=str(last), error=str(error))
            return None

    def save_best(self, step: int, weights: Tensors) -> None:
        """Keep the best weights so far beside those that the last checkpoint still names."""
        unfinished = self.folder / "unfinished.safetensors"
        _write_tensors(weights, unfinished)
        unfinished.rename(self.best_file(step))

    def forget_best_before(self, step: int) -> None:
        """To be called once a checkpoint names `step` as the best."""
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.best_file(step):
                path.unlink()

    def load_best(self, step: int) -> dict[str, torch.Tensor]:
        """The weights that `save_best` kept for a step."""
        return load_file(self.best_file(step))

    def best_file(self, step: int) -> Path:
        """Where the best weights of a step are."""
        return self.folder / f"best-{step:08d}.safetensors"

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]
) -> dict[str, torch.Tensor]:
    """AdamW's moments, by parameter name; empty before the first step."""
    return {
        f"adam.{name}.{key}": optimizer.state[parameter][key]
        for parameter, name in names.items()
        if parameter in optimizer.state
        for key in ADAM_MOMENTS
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str], tensors: Tensors
) -> None:
    """Put the moments back that `optimizer_tensors` gave."""
    for parameter, name in names.items():
        if f"adam.{name}.step" in tensors:
            found = {key: tensors[f"adam.{name}.{key}"] for key in ADAM_MOMENTS}
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}


def restore_weights(names: Mapping[torch.nn.Parameter, str], tensors: Tensors) -> None:
    """Copy tensors into the parameters of the same name."""
    with torch.no_grad():
        for parameter, name in names.items():
            parameter.copy_(tensors[name])


def _write_tensors(tensors: Tensors, path: Path) -> None:
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except Exception as error:  # safetensors raises its own type, with the system's message inside
        raise StoreError(
            f"a training checkpoint cannot be written: {error}", where=str(path.parent), todo="free space there"
        ) from error
