"""Checkpoints of a training run: safetensors and JSON, whole or not at all, the last ones only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from radit_job import observe
from radit_job.errors import StoreError
from radit_job.training.spreading import like, own_part

Tensors = Mapping[str, torch.Tensor]

ADAM_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Checkpoints:
    """The checkpoints in one scratch folder: `step-<n>/` (tensors and state) and `best-<n>.safetensors`.

    The last `n_kept` steps are kept; more than one where others must have the same step, too.
    """

    def __init__(self, folder: Path, *, n_kept: int = 1) -> None:
        self.folder, self.n_kept = folder, n_kept
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
        """Keep this step's tensors and JSON state, then forget the steps before it."""
        unfinished = self.folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write_tensors(tensors, unfinished / "tensors.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": step, **state}))
        final = self._folder_of(step)
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        kept = [path for path in self._steps() if path <= final][-self.n_kept :]
        for other in self._steps():
            if other not in kept:
                shutil.rmtree(other)

    def load(self, step: int | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """A checkpoint's tensors and state, the last one's by default, or None; an unreadable one counts as none."""
        steps = [path for path in self._steps() if step is None or path == self._folder_of(step)]
        if not steps:
            return None
        last = steps[-1]
        try:
            return load_file(last / "tensors.safetensors"), json.loads((last / "state.json").read_text())
        except (OSError, ValueError, SafetensorError) as error:
            observe.warn("the last checkpoint cannot be read: training begins anew", folder=str(last), error=str(error))
            return None

    def states(self) -> list[dict[str, Any]]:
        """The JSON states of the steps that are kept, as far as they can be read, the last one last."""
        found = []
        for folder in self._steps():
            with suppress(OSError, ValueError):
                found.append(json.loads((folder / "state.json").read_text()))
        return found

    def save_best(self, step: int, weights: Tensors) -> None:
        """Keep the best weights so far beside those that the last checkpoint still names."""
        unfinished = self.folder / "unfinished.safetensors"
        _write_tensors(weights, unfinished)
        unfinished.rename(self.best_file(step))

    def forget_best_before(self, step: int) -> None:
        """To be called once a checkpoint names `step` as the best."""
        self.forget_best_but({step})

    def forget_best_but(self, steps: Collection[int]) -> None:
        """To be called once no checkpoint names another step as the best."""
        for path in self.folder.glob("best-*.safetensors"):
            if path not in map(self.best_file, steps):
                path.unlink()

    def load_best(self, step: int) -> dict[str, torch.Tensor]:
        """The weights that `save_best` kept for a step."""
        return load_file(self.best_file(step))

    def best_file(self, step: int) -> Path:
        """Where the best weights of a step are."""
        return self.folder / f"best-{step:08d}.safetensors"

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]
) -> dict[str, torch.Tensor]:
    """AdamW's moments, by parameter name; empty before the first step."""
    return {
        f"adam.{name}.{key}": own_part(optimizer.state[parameter][key])
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
            placed = {key: value.to(parameter.device) for key, value in found.items()}
            optimizer.state[parameter] = placed | {key: like(parameter, placed[key]) for key in ADAM_MOMENTS[1:]}


def restore_weights(names: Mapping[torch.nn.Parameter, str], tensors: Tensors) -> None:
    """Copy tensors into the parameters of the same name."""
    with torch.no_grad():
        for parameter, name in names.items():
            own_part(parameter).copy_(tensors[name])


def _write_tensors(tensors: Tensors, path: Path) -> None:
    try:
        save_file({name: own_part(tensor.detach()).cpu().contiguous() for name, tensor in tensors.items()}, path)
    except Exception as error:  # safetensors raises its own type, with the system's message inside
        raise StoreError(
            f"a training checkpoint cannot be written: {error}", where=str(path.parent), todo="free space there"
        ) from error
