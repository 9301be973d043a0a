"""Told to stop in the middle of training: the steps done are kept, and nothing is computed twice but the last one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from radit_job.errors import Terminated
from radit_job.training.batches import shared_passes
from radit_job.training.checkpoint import State
from radit_job.training.examples import EncodedExample
from radit_job.training.keeping import Keeper
from radit_job.training.loop import TrainingLoop
from radit_job.training.stopping import stop_request
from tests.unit.test_training_lm import SETTINGS, run

SLOW_TO_KEEP = replace(SETTINGS, epochs=2, checkpoint_interval_s=1e6)  # 5 steps an epoch; 6 held-out examples


@pytest.fixture(autouse=True)
def terminated() -> Iterator[None]:
    """SIGTERM as the command line takes it."""

    def end(number: int, frame: object) -> None:
        raise Terminated("terminated")

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("n_passes", "steps_kept"),
    [
        (3, 0),  # while the untuned model's held-out loss is measured
        (6 + 4 + 2, 1),  # in the middle of step 2
        (6 + 18 + 3, 5),  # while the held-out loss is measured after the first epoch
        (6 + 18 + 6 + 6, 6),  # in step 7
        (6 + 18 + 6 + 18 + 6, 10),  # in the very last pass
    ],
)
def test_it_goes_on_from_the_last_whole_step_and_ends_bit_identical(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_passes: int, steps_kept: int
) -> None:
    whole = run(tiny_lm_folder, tmp_path / "whole", SLOW_TO_KEEP)
    n_done, plain = 0, TrainingLoop._nats

    def stopping_nats(self: TrainingLoop, examples: list[EncodedExample]) -> torch.Tensor:
        nonlocal n_done
        n_done += 1
        if n_done == n_passes:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, examples)

    monkeypatch.setattr(TrainingLoop, "_nats", stopping_nats)
    with pytest.raises(Terminated):
        run(tiny_lm_folder, tmp_path / "stopped", SLOW_TO_KEEP)
    assert n_done == n_passes, "the pass at hand is the last one"
    kept = [path.name for path in (tmp_path / "stopped/scratch").glob("step-*")]
    assert kept == [f"step-{steps_kept:08d}"]
    again = run(tiny_lm_folder, tmp_path / "stopped", SLOW_TO_KEEP)
    assert again.to_json() == whole.to_json()
    for file in (tmp_path / "whole/lm").rglob("*.safetensors"):
        other = load_file(tmp_path / "stopped" / file.relative_to(tmp_path / "whole"))
        assert all(torch.equal(tensor, other[name]) for name, tensor in load_file(file).items())


def test_told_to_stop_while_it_finds_itself_at_the_end_it_stops(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny_lm_folder, tmp_path, SETTINGS)
    shutil.rmtree(tmp_path / "lm")
    plain = Keeper.load

    def stopping_load(self: Keeper, fingerprint: str) -> State | None:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, fingerprint)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "load", stopping_load)
        with pytest.raises(Terminated):
            run(tiny_lm_folder, tmp_path, SETTINGS)
    assert not (tmp_path / "lm").exists()
    assert run(tiny_lm_folder, tmp_path, SETTINGS).to_json() == whole.to_json()


@pytest.mark.parametrize(
    ("stops", "n_left"),
    [
        ((6 + 18 + 3, 6 + 2), 18 + 6),  # in the evaluation after the first epoch; after it, in step 6
        ((6 + 18 + 6 + 18 + 3, 6), 0),  # in the evaluation at the end; in its last pass
    ],
)
def test_an_evaluation_that_was_made_up_for_is_kept_at_the_next_stop(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, int], n_left: int
) -> None:
    whole = run(tiny_lm_folder, tmp_path / "whole", SLOW_TO_KEEP)
    n_done, stops_at, plain = 0, 0, TrainingLoop._nats

    def stopping_nats(self: TrainingLoop, examples: list[EncodedExample]) -> torch.Tensor:
        nonlocal n_done
        n_done += 1
        if n_done == stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, examples)

    monkeypatch.setattr(TrainingLoop, "_nats", stopping_nats)
    for n_passes in stops:
        n_done, stops_at = 0, n_passes
        with pytest.raises(Terminated):
            run(tiny_lm_folder, tmp_path / "stopped", SLOW_TO_KEEP)
    n_done = stops_at = 0
    assert run(tiny_lm_folder, tmp_path / "stopped", SLOW_TO_KEEP).to_json() == whole.to_json()
    assert n_done == n_left


def test_a_request_that_nobody_looked_at_is_obeyed_at_the_end_unless_an_error_ends_it() -> None:
    for patient in (False, True):
        reached = False
        with pytest.raises(Terminated), stop_request(patient=patient):
            os.kill(os.getpid(), signal.SIGTERM)
            reached = True
        assert reached
    with pytest.raises(ValueError, match="mine"), stop_request():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("mine")


def test_a_second_signal_does_not_wait_unless_others_are_waited_for() -> None:
    with pytest.raises(Terminated), stop_request() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.is_made
        os.kill(os.getpid(), signal.SIGTERM)
    with stop_request(patient=True) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Terminated):
            request.obey()


@pytest.mark.parametrize(("n_rows", "size"), [(1, 1), (1, 2), (1, 3), (2, 2), (4, 3)])
@pytest.mark.parametrize("n_examples", [1, 5, 12])
def test_processes_make_equally_many_passes_and_take_each_row_once(n_examples: int, n_rows: int, size: int) -> None:
    examples = [EncodedExample((*range(3 + i * 7 % 5), i), 2) for i in range(n_examples)]
    shares = [shared_passes(examples, n_rows, rank, size) for rank in range(size)]
    assert len({len(passes) for passes in shares}) == 1
    counted = [row for passes in shares for part in passes if part.counts for row in part.examples]
    assert sorted(counted, key=str) == sorted(examples, key=str)
    for together in zip(*shares, strict=True):
        assert {part.n_examples for part in together} == {sum(len(part.examples) * part.counts for part in together)}
        assert all(1 <= len(part.examples) <= n_rows for part in together)
    if size == 1:
        assert counted == examples, "one process keeps the batch's order, and with it every bit"
