"""Several processes train as one does; whatever is stopped or killed, training goes on where it was."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.training_bench import (
    GRACE_S,
    TrainingBench,
    free_port,
    greatest_difference,
    is_step,
    kill,
    lives,
    wait_until,
)

TOLERANCE_NATS = 1e-3
N_MOMENTS = 10
TUNING: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "learning_rate": 5e-3},
    "full": {"method": "full", "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_lm_folder: Path) -> dict[str, dict[str, Any]]:
    """The training of one process that nobody stops, by method."""
    benches = {m: TrainingBench(tmp_path_factory.mktemp(m), tiny_lm_folder, **TUNING[m]) for m in TUNING}
    return {method: bench.trained_here() for method, bench in benches.items()}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_learn_as_one_does_though_one_of_them_is_killed(
    tmp_path: Path, tiny_lm_folder: Path, undisturbed: dict[str, dict[str, Any]], method: str
) -> None:
    bench = TrainingBench(tmp_path, tiny_lm_folder, processes_per_node=2, **TUNING[method])
    stage = bench.start()
    assert stage.until(is_step(10)), stage.said
    first, second = stage.children()
    kill(second)
    assert stage.ended() == 0, stage.said
    assert stage.gone_on_from and stage.gone_on_from[0] >= 9, "at most the step at hand is done again"
    assert not lives(first)
    training = bench.training()
    assert training["world"] == {"nodes": 1, "processes_per_node": 2, "kind": "DDP" if method == "lora" else "FSDP"}
    assert greatest_difference(training, undisturbed[method]) <= TOLERANCE_NATS
    assert training["best_step"] == undisturbed[method]["best_step"]


@pytest.mark.parametrize(("method", "n_processes"), [("lora", 1), ("full", 2)])
def test_sigterm_keeps_the_steps_that_are_done(
    tmp_path: Path, tiny_lm_folder: Path, undisturbed: dict[str, dict[str, Any]], method: str, n_processes: int
) -> None:
    tuning = {**TUNING[method], "processes_per_node": n_processes, "checkpoint_interval_s": 1e6}
    bench = TrainingBench(tmp_path, tiny_lm_folder, **tuning)
    stage = bench.start()
    assert stage.until(is_step(9)), stage.said
    assert stage.kept_within_s() < GRACE_S
    again = bench.start()
    assert again.ended() == 0, again.said
    assert again.gone_on_from == [stage.steps_done]
    assert greatest_difference(bench.training(), undisturbed[method]) <= TOLERANCE_NATS


def test_a_killed_stage_leaves_no_process_behind(tmp_path: Path, tiny_lm_folder: Path) -> None:
    stage = TrainingBench(tmp_path, tiny_lm_folder, processes_per_node=2).start()
    assert stage.until(is_step(1)), stage.said
    processes = stage.children()
    assert len(processes) == 2
    assert stage.ended(by=signal.SIGKILL) == -signal.SIGKILL
    assert wait_until(lambda: not any(map(lives, processes)), 5)


def test_training_that_diverges_in_two_processes_says_so_in_one_line(tmp_path: Path, tiny_lm_folder: Path) -> None:
    stage = TrainingBench(tmp_path, tiny_lm_folder, processes_per_node=2, learning_rate=1e30).start()
    assert stage.ended() == 1
    error = stage.events[-1]
    assert (error["event"], error["type"], error["exit_code"]) == ("error", "StageFailed", 1)
    assert error["what"].startswith("training diverged at step") and "learning_rate" in error["todo"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_nodes_go_on_when_either_is_lost_and_has_come_back(
    tmp_path: Path, tiny_lm_folder: Path, undisturbed: dict[str, dict[str, Any]], method: str
) -> None:
    bench = TrainingBench(tmp_path, tiny_lm_folder, nodes=2, **TUNING[method])
    port = free_port()
    first, second = bench.start_node(0, port), bench.start_node(1, port)
    assert first.until(is_step(4)), first.said
    first.ended(by=signal.SIGKILL)
    assert second.ended() == 75, second.said
    assert second.events[-1]["type"] == "TryAgainError"

    first, second = bench.start_node(0, port), bench.start_node(1, port)
    assert first.until(is_step(12)), first.said
    second.ended(by=signal.SIGKILL)
    second = bench.start_node(1, port)
    assert first.ended() == 0, first.said
    assert second.ended() == 0, second.said
    assert [at >= least for at, least in zip(first.gone_on_from, (3, 11), strict=True)] == [True, True]
    assert greatest_difference(bench.training(), undisturbed[method]) <= TOLERANCE_NATS


@pytest.mark.slow
@pytest.mark.parametrize(("method", "n_processes"), [("lora", 1), ("lora", 2), ("full", 2)])
def test_stopped_at_ten_random_moments(
    tmp_path: Path, tiny_lm_folder: Path, undisturbed: dict[str, dict[str, Any]], method: str, n_processes: int
) -> None:
    chance = random.Random(f"{method} {n_processes}")
    tuning = {**TUNING[method], "processes_per_node": n_processes, "checkpoint_interval_s": 1e6}
    bench = TrainingBench(tmp_path, tiny_lm_folder, **tuning)
    done = 0
    for moment in range(N_MOMENTS):
        stage = bench.start()
        after = chance.randrange(4)  # steps of this try
        assert stage.until(is_step(done + after)), stage.said
        delay_s = chance.uniform(0, 0.5)
        assert not stage.ends_within(delay_s), stage.said
        kept_s = stage.kept_within_s()
        assert kept_s < GRACE_S
        n_repeated = done - stage.gone_on_from[0] if done else 0
        at = f"{after} steps and {delay_s:.2f} s in, at step {stage.steps_done}"
        print(f"moment {moment}: {at}; kept after {kept_s:.2f} s; {n_repeated} steps again")
        assert n_repeated == 0
        done = stage.steps_done
    last = bench.start()
    assert last.ended() == 0, last.said
    difference = greatest_difference(bench.training(), undisturbed[method])
    print(f"{method}, {n_processes} processes: {N_MOMENTS} stops, greatest difference {difference:.1e} nats a token")
    assert difference <= TOLERANCE_NATS
