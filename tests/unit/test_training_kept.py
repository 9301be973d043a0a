"""Shares of the weights, kept by several processes: an old copy of one still has a step that the others have, too."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from radit_job.training import keeping
from radit_job.training.checkpoint import Checkpoints, State
from radit_job.training.keeping import KEPT_S, N_NEWEST, SPACING_S, ShardKeeper, shared_steps
from radit_job.training.world import World


class Table:
    """Where processes that are threads here lay down what they tell each other."""

    def __init__(self, size: int) -> None:
        self.told: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=30)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.told[rank] = value
        self.barrier.wait()
        found = list(self.told)
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Threads(World):
    """A world of threads."""

    table: Table | None = None

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        assert self.table is not None
        return [list(row) for row in self.table.exchange(self.rank, values)]

    def broadcast_json(self, value: Any) -> Any:
        assert self.table is not None
        return self.table.exchange(self.rank, value)[0]


class Bench:
    """Two processes with a share each, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 1e9

    def on_both(self, do: Callable[[ShardKeeper, torch.nn.Parameter], Any]) -> list[Any]:
        table = Table(2)

        def one(rank: int) -> Any:
            weight = torch.nn.Parameter(torch.zeros(2))
            optimizer = torch.optim.AdamW([weight])
            world = Threads(rank, 2, table=table)
            return do(ShardKeeper(self.folder / f"node-{rank}", {weight: "w"}, optimizer, world), weight)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    def save(self, *steps: int, every_s: float = 10.0) -> None:
        for step in steps:
            self.now_s += every_s
            self.on_both(lambda keeper, weight, step=step: self._save(keeper, weight, step))

    def _save(self, keeper: ShardKeeper, weight: torch.nn.Parameter, step: int) -> None:
        weight.data.fill_(step + keeper.world.rank / 10)
        if step % 10 == 0:
            keeper.save_best(step)
        keeper.save(step, {"fingerprint": "x", "history": {"best_step": step - step % 10 or None}})

    def load(self) -> list[tuple[int | None, float]]:
        """The step that each goes on from, and its weight."""

        def one(keeper: ShardKeeper, weight: torch.nn.Parameter) -> tuple[int | None, float]:
            state = keeper.load("x")
            if state is not None and state["history"]["best_step"]:
                assert keeper.checkpoints.best_file(state["history"]["best_step"]).exists()
            return state and state["step"], round(float(weight.detach()[0]), 3)

        return self.on_both(one)

    def steps(self, rank: int) -> list[str]:
        return sorted(path.name for path in (self.folder / f"node-{rank}").glob("*/step-*"))


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(keeping.observe, "warn", lambda message, **fields: said.append(f"{message} {fields}"))
    return said


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(keeping.time, "time", lambda: bench.now_s)
        yield bench


def test_a_node_that_comes_back_with_a_copy_of_a_minute_ago_finds_a_step_with_the_rest(
    bench: Bench, warnings: list[str]
) -> None:
    bench.save(*range(1, 41))
    shutil.copytree(bench.folder / "node-1", bench.folder / "copy")
    bench.save(*range(41, 60))
    shutil.rmtree(bench.folder / "node-1")
    (bench.folder / "copy").rename(bench.folder / "node-1")
    (step, first), (other, second) = bench.load()
    assert step == other
    assert step is not None and 40 - SPACING_S / 10 <= step <= 40
    assert (first, second) == (step, step + 0.1)  # each its own share
    assert bench.steps(0) == bench.steps(1), "all choose from the same steps hereafter"
    assert max(bench.steps(0)).endswith(f"{step:08d}"), "what came after it is another course of things"
    assert not warnings


def test_that_there_is_no_common_step_is_said(bench: Bench, warnings: list[str]) -> None:
    assert bench.load() == [(None, 0.0)] * 2
    assert not warnings
    bench.save(1, 2)
    shutil.rmtree(bench.folder / "node-1")
    assert bench.load() == [(None, 0.0)] * 2
    assert len(warnings) == 1 and "no step that all of them have" in warnings[0] and "2, none" in warnings[0]


def test_a_kill_while_old_steps_are_deleted_hides_no_newer_one(bench: Bench, warnings: list[str]) -> None:
    bench.save(*range(1, 31))
    for rank, left in ((0, range(20, 29)), (1, ())):
        folder = next((bench.folder / f"node-{rank}").glob("shard-*"))
        for step in left:
            if not (folder / f"step-{step:08d}").exists():
                shutil.copytree(folder / "step-00000030", folder / f"step-{step:08d}")
                state = (folder / f"step-{step:08d}/state.json").read_text()
                (folder / f"step-{step:08d}/state.json").write_text(state.replace('"step": 30', f'"step": {step}'))
    assert [step for step, _ in bench.load()] == [30, 30]
    assert not warnings


@pytest.mark.parametrize("every_s", [[1.0], [10.0], [60.0], [59.0, 1.0], [300.0, 1.0], [301.0], [1000.0, 0.1, 0.1]])
@pytest.mark.parametrize("lag_s", [0.0, 31.0, 90.0, KEPT_S])
def test_few_steps_are_kept_and_an_old_copy_shares_one_of_them(every_s: list[float], lag_s: float) -> None:
    kept: list[State] = []
    history: list[tuple[float, list[State]]] = []
    now_s = 1e9
    for step in range(600):
        now_s += every_s[step % len(every_s)]
        kept.append({"step": step, "kept_at_s": now_s})
        steps = shared_steps(kept)
        kept = [state for state in kept if state["step"] in steps]
        assert N_NEWEST <= len(kept) <= 6 or step == 0
        assert [state["step"] for state in kept][-N_NEWEST:] == [*range(step + 1)][-N_NEWEST:]
        history.append((now_s, kept))
        copies = [(at_s, copy) for at_s, copy in history if at_s <= now_s - lag_s]
        if copies:
            at_s, copy = copies[-1]
            common = [state["kept_at_s"] for state in copy if state in kept]
            assert common, (step, lag_s)
            assert at_s - max(common) <= SPACING_S + max(every_s)


def test_a_clock_that_jumps_lets_nothing_pile_up() -> None:
    kept: list[State] = []
    for step in range(400):
        at_s = 1e9 + 10 * step - (5000 if step >= 200 else 0)
        kept.append({"step": step, "kept_at_s": at_s})
        steps = shared_steps(kept)
        kept = [state for state in kept if state["step"] in steps]
        assert len(kept) <= 6


def test_one_process_keeps_the_last_step_and_a_newer_state_of_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, says in ((1, "a"), (2, "b"), (2, "c")):
        checkpoints.save(step, {"x": torch.ones(1)}, {"says": says})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert checkpoints.states() == [{"step": 2, "says": "c"}]
