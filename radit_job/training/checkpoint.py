"""Checkpoints of a training run: safetensors and JSON, whole or not at all, the last ones only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
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
State = dict[str, Any]  # JSON; `step` and what else was saved with it

ADAM_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def the_last(states: Sequence[State]) -> set[int]:
    """The last step alone is worth keeping."""
    return {int(states[-1]["step"])}


class Checkpoints:
    """The checkpoints in one scratch folder: `step-<n>/` (tensors and state) and `best-<n>.safetensors`.

    `choose` tells from the states, the last one last, which steps to keep: more than one where others must have the
    same step, too.
    """

    def __init__(self, folder: Path, choose: Callable[[Sequence[State]], Collection[int]] = the_last) -> None:
        self.folder, self.choose = folder, choose
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: Tensors, state: State) -> None:
        """Keep this step's tensors and JSON state, then forget the steps that are not worth it any more."""
        unfinished, replaced = self.folder / "unfinished", self.folder / "unfinished-replaced"
        for left_behind in (unfinished, replaced):
            shutil.rmtree(left_behind, ignore_errors=True)
        unfinished.mkdir()
        _write_tensors(tensors, unfinished / "tensors.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": step, **state}))
        final = self._folder_of(step)
        if final.exists():  # the same step with a newer history; a kill while it is deleted must not lose both
            final.rename(replaced)
        unfinished.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
        self.forget_but(self.choose([kept for kept in self.states() if kept["step"] <= step]))

    def forget_but(self, steps: Collection[int]) -> None:
        """Delete all steps but these."""
        kept = set(map(self._folder_of, steps))
        for folder in self._steps():
            if folder not in kept:
                shutil.rmtree(folder)

    def load(self, step: int | None = None) -> tuple[dict[str, torch.Tensor], State] | None:
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

    def states(self) -> list[State]:
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
