"""The state of a training run, kept and brought back: by one process for all, or by each for its share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from radit_job import observe
from radit_job.training.checkpoint import (
    ADAM_MOMENTS,
    Checkpoints,
    State,
    optimizer_tensors,
    restore_optimizer,
    restore_weights,
)
from radit_job.training.world import World

# Of weights that are shared out more than the last step is kept: a process may be lost while others have saved the next
# one already, and on a new machine it has what the store has of it, which is older by an interval and an upload.
N_NEWEST = 2
KEPT_S = 300.0
SPACING_S = KEPT_S / 2
N_TOLD = 8  # more steps than are kept
NONE = -1.0  # no step
Names = Mapping[torch.nn.Parameter, str]


def shared_steps(states: Sequence[State]) -> set[int]:
    """Which steps of shared-out weights to keep, at most six: `kept_at_s` of the last state is the present.

    The newest two, the first one of each stretch of SPACING_S within KEPT_S, and the newest one from before that. All
    processes drop the same steps, so whatever one has kept for KEPT_S was in every copy made since.
    """
    now_s = _kept_at_s(states[-1])
    firsts: dict[float, int] = {}
    old: list[int] = []
    for state in states:
        at_s = _kept_at_s(state)
        if 0 <= now_s - at_s < KEPT_S:
            firsts.setdefault(at_s // SPACING_S, int(state["step"]))
        else:  # or from the future: the clock is that of another machine
            old.append(int(state["step"]))
    newest = [int(state["step"]) for state in states[-N_NEWEST:]]
    return {*newest, *firsts.values(), *old[-1:]}


def _kept_at_s(state: State) -> float:
    return float(state.get("kept_at_s", 0.0))


class Keeper:
    """For weights that every process has whole: the first one keeps them, and tells them to all."""

    def __init__(self, folder: Path, names: Names, optimizer: torch.optim.Optimizer, world: World) -> None:
        self.names, self.optimizer, self.world = names, optimizer, world
        self.checkpoints = self._open(folder)

    def _open(self, folder: Path) -> Checkpoints:
        return Checkpoints(folder)

    def save(self, step: int, state: State) -> None:
        """Keep weights, optimizer, random numbers and `state`, whose history.best_step names the best weights."""
        if self.world.is_first:
            self._write(step, state)
            self.checkpoints.forget_best_before(state["history"]["best_step"] or 0)

    def load(self, fingerprint: str) -> State | None:
        """Bring back the last step of the run of that fingerprint; its state, or None where there is none."""
        found = self.checkpoints.load() if self.world.is_first else None
        if found is not None and found[1]["fingerprint"] == fingerprint:
            self._restore(found[0])
        else:
            found = None
        state: State | None = self.world.broadcast_json(found and found[1])
        if state is not None and self.world.size > 1:
            self._share()
        return state

    def save_best(self, step: int) -> None:
        """Keep the weights as the best so far."""
        if self.world.is_first:
            self.checkpoints.save_best(step, {name: p for p, name in self.names.items()})

    def restore_best(self, step: int) -> None:
        """Bring the best weights back: where the model is saved from."""
        if self.world.is_first:
            restore_weights(self.names, self.checkpoints.load_best(step))

    def _write(self, step: int, state: State) -> None:
        weights = {f"weights.{name}": p for p, name in self.names.items()}
        tensors = weights | optimizer_tensors(self.optimizer, self.names) | {"rng": torch.get_rng_state()}
        self.checkpoints.save(step, tensors, state)

    def _restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        restore_weights(self.names, {name.removeprefix("weights."): tensor for name, tensor in tensors.items()})
        restore_optimizer(self.optimizer, self.names, tensors)
        torch.set_rng_state(tensors["rng"])

    def _share(self) -> None:
        has_moments = self.world.broadcast_json(len(self.optimizer.state) > 0)
        for parameter in self.names:
            self.world.broadcast(parameter.data)
            if not has_moments:
                continue
            moments = self.optimizer.state[parameter]
            if not moments:
                step = torch.zeros((), dtype=torch.float32, device=parameter.device)
                moments.update(step=step, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            for key in ADAM_MOMENTS:
                self.world.broadcast(moments[key].data)
        rng = torch.get_rng_state()
        self.world.broadcast(rng)
        torch.set_rng_state(rng)


class ShardKeeper(Keeper):
    """For weights of which every process has a share: each keeps its own, and all go on from a step that all have."""

    def _open(self, folder: Path) -> Checkpoints:
        return Checkpoints(folder / f"shard-{self.world.rank}-of-{self.world.size}", shared_steps)

    def save(self, step: int, state: State) -> None:
        """See Keeper."""
        self._write(step, {**state, "kept_at_s": self.world.broadcast_json(time.time())})  # all by one clock
        best = {kept["history"]["best_step"] for kept in self.checkpoints.states()}
        self.checkpoints.forget_best_but(best - {None})

    def load(self, fingerprint: str) -> State | None:
        """See Keeper."""
        steps = self._common_steps(fingerprint)
        # What not all have is of no use to anybody, and all shall choose from the same steps hereafter.
        self.checkpoints.forget_but(steps)
        found = self.checkpoints.load(max(steps)) if steps else None
        if self.world.any(found is None) or found is None:
            return None
        self._restore(found[0])
        return found[1]

    def save_best(self, step: int) -> None:
        """See Keeper."""
        self.checkpoints.save_best(step, {name: p for p, name in self.names.items()})

    def restore_best(self, step: int) -> None:
        """See Keeper."""
        restore_weights(self.names, self.checkpoints.load_best(step))

    def _common_steps(self, fingerprint: str) -> set[int]:
        """The steps that every process has kept of this run."""
        own = [float(state["step"]) for state in self.checkpoints.states() if state["fingerprint"] == fingerprint]
        told = self.world.gather(([NONE] * N_TOLD + own)[-N_TOLD:])
        common = set.intersection(*map(set, told)) - {NONE}
        last = [int(max(steps)) for steps in told]
        if not common and max(last) > NONE and self.world.is_first:
            observe.warn(
                "the training processes have kept no step that all of them have: training begins anew",
                last_steps=", ".join("none" if step == NONE else str(step) for step in last),
            )
        return set(map(int, common))


def keeper_of(method: str, folder: Path, names: Names, optimizer: torch.optim.Optimizer, world: World) -> Keeper:
    """Who keeps the state of a run whose weights are spread as `spread` does it."""
    is_divided = method == "full" and world.size > 1
    keeper = (ShardKeeper if is_divided else Keeper)(folder, names, optimizer, world)
    kept = [*folder.glob("step-*"), *folder.glob("shard-*/step-*")]
    if kept and not any(keeper.checkpoints.folder.glob("step-*")) and world.is_first:
        observe.warn(
            "what an earlier try kept is divided among another number of processes: training begins anew",
            n_processes=world.size,
        )
    return keeper
