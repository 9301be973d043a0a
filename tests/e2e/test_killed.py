"""Whatever is killed, whenever: the next run goes on, and the numbers are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Workplace

QUICK_KILLS = 2
MANY_KILLS = 20


def but_for_times(results: dict[str, Any]) -> dict[str, Any]:
    stages = [{name: value for name, value in stage.items() if name != "seconds"} for stage in results["stages"]]
    return {**results, "stages": stages, "store": "", "run": ""}


def committed(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.glob("artifacts/*/*/manifest.json")}


def workers_of(controller: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(controller)], capture_output=True, text=True).stdout
    return [int(line) for line in listed.split()]


def run_with_kills(workplace: Workplace, store: str, most_kills: int, chance: random.Random) -> int:
    """Kill the controller or its worker at random moments, one a try, until the run ends; returns how often."""
    folder = workplace.folder / store
    kills = 0
    while True:
        before = {path: (folder / path).stat().st_mtime_ns for path in committed(folder)}
        process = workplace.start("run", "small.yaml", "--store", store)
        try:
            process.wait(chance.uniform(0.3, 9.0) if kills < most_kills else None)
        except subprocess.TimeoutExpired:
            victims = workers_of(process.pid) if chance.random() < 0.5 else []
            os.kill(victims[0] if victims else process.pid, signal.SIGKILL)
            kills += 1
        said = process.communicate()[0].decode()
        for path, time_ns in before.items():
            assert (folder / path).stat().st_mtime_ns == time_ns, f"{path} was committed already and was written again"
        if process.returncode == 0:
            return kills
        assert process.returncode in (-9, 1), said
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def undisturbed(workplace: Workplace) -> Workplace:
    done = workplace.radit("run", "small.yaml", "--store", "undisturbed")
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def test_killed_twice(undisturbed: Workplace) -> None:
    run_with_kills(undisturbed, "killed", QUICK_KILLS, random.Random(1))
    assert but_for_times(undisturbed.results("killed")) == but_for_times(undisturbed.results("undisturbed"))


@pytest.mark.slow
def test_killed_twenty_times(undisturbed: Workplace) -> None:
    chance = random.Random(2)
    kills, stores = 0, 0
    while kills < MANY_KILLS:
        store = f"killed-{stores}"
        kills += run_with_kills(undisturbed, store, MANY_KILLS - kills, chance)
        stores += 1
        assert but_for_times(undisturbed.results(store)) == but_for_times(undisturbed.results("undisturbed"))


def test_ctrl_c_stops_cleanly_and_the_worker_with_it(workplace: Workplace) -> None:
    process = workplace.start("run", "small.yaml", "--store", "interrupted")
    assert process.stdout is not None
    for line in process.stdout:
        if b"stage_started" in line:
            break
    process.send_signal(signal.SIGINT)
    said = process.stdout.read().decode()
    assert process.wait() == 130
    assert "goes on from there" in said
    assert "Traceback" not in said
    record = json.loads((workplace.folder / "interrupted/runs/small/run.json").read_text())
    assert record["status"] == "interrupted"
