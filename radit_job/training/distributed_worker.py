"""One of the processes that train together: `python -m radit_job.training.distributed_worker ORDER.json`.

`launching` starts it, by way of torch's elastic launcher, and reads what it leaves beside its order: `summary.json` of
the first process, `error-<rank>.json` of one that failed with an error of our own (starting it again would not help),
`crash-<rank>.json` of any other.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radit_job.errors import RaditError
from radit_job.observe.events import Event, log, send_events_to
from radit_job.records import Example, read_rows

PR_SET_PDEATHSIG = 1  # prctl(2)
PARENT_CHECK_S = 0.5


def main(order_file: Path) -> int:
    """Do what the order says; returns the exit code."""
    folder = order_file.parent
    order: dict[str, Any] = json.loads(order_file.read_text())
    _end_with(order["parent_pid"])
    rank = order["node"] * order["processes_per_node"] + int(os.environ["LOCAL_RANK"])
    if any(folder.glob("error-*.json")):
        return RaditError.exit_code  # one that starts all of us again cannot know that it is of no use
    _leave(folder / f"crash-{rank}.json", None)
    if rank == 0:
        _report_to(folder / "events")
    try:
        _train(order, folder, rank)
    except RaditError as error:
        _leave(folder / f"error-{rank}.json", error.to_json())
        return error.exit_code
    except Exception as error:  # the process's outermost frame
        traceback.print_exc()
        from radit_job.training.world import is_lost_peer

        crash = {"what": f"{type(error).__name__}: {error}", "is_lost_peer": is_lost_peer(error)}
        _leave(folder / f"crash-{rank}.json", crash)
        return RaditError.exit_code
    return 0


def _train(order: dict[str, Any], folder: Path, rank: int) -> None:
    import torch

    from radit_job.training.lm import tune
    from radit_job.training.settings import LMTrainingSettings
    from radit_job.training.world import join_world, leave_world

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // order["processes_per_node"]))
    world = join_world(rank, order["n_nodes"])
    if int(os.environ["TORCHELASTIC_RESTART_COUNT"]):
        log("the training processes start again", n_processes=world.size)
    summary = tune(
        Path(order["model"]),
        list(read_rows(folder / "train.jsonl", Example)),
        list(read_rows(folder / "dev.jsonl", Example)),
        LMTrainingSettings(**order["settings"]),
        out=Path(order["out"]),
        scratch=Path(order["scratch"]),
        base_name=order["base_name"],
        world=world,
    )
    if world.is_first:
        _leave(folder / "summary.json", asdict(summary))
    leave_world(world)


def _leave(path: Path, value: Any) -> None:
    """Write a file whole; None: there shall be none."""
    if value is None:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)


def _report_to(pipe: Path) -> None:
    """Hand every event to the stage's process, which shows it as its own."""
    target = os.open(pipe, os.O_WRONLY)

    def hand_up(event: Event) -> None:
        os.write(target, json.dumps(event, default=str).encode() + b"\n")

    send_events_to(hand_up)


def _end_with(parent_pid: int) -> None:
    """Whoever kills the stage's process, with -9 even, ends this one, too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(PARENT_CHECK_S)
        os._exit(143)

    threading.Thread(target=watch, daemon=True, name="parent").start()


if __name__ == "__main__":
    exit_code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # threads of a broken process group must not keep it
