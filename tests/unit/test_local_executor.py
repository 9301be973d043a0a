"""The local executor with real processes: whatever a stage prints or however it ends, its outcome is reported."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from radit_job.errors import Terminated
from radit_job.executors import local
from radit_job.executors.kubernetes.pods import GRACE_S
from radit_job.executors.local import LocalExecutor
from radit_job.jobs import JobSpec, JobState, Resources
from radit_job.store import LocalStore


@pytest.fixture
def executor(tmp_path: Path) -> LocalExecutor:
    return LocalExecutor(LocalStore(tmp_path / "store"), tmp_path / "logs")


def spec(stage: str = "split", resources: Resources | None = None) -> JobSpec:
    return JobSpec("run", stage, 1, "key", {}, (), resources=resources or Resources(0.1))


def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let the executor's command run `code` instead of the package."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize("loads_models", [False, True])
def test_a_stage_s_own_error_is_its_outcome(executor: LocalExecutor, loads_models: bool) -> None:
    resources = Resources(0.1, loads_models=loads_models)
    executor.start(spec(resources=resources), "runs/run/jobs/nowhere.json")  # the real worker: there is no such spec
    [(stage, outcome)] = executor.wait()
    assert (stage, outcome.state, outcome.exit_code) == ("split", JobState.FAILED, 1)
    assert outcome.error is not None
    assert "no job is described" in outcome.error["what"]


def test_what_a_library_prints_is_kept_in_the_log(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, tmp_path, "import sys; print('{not json'); print(b'\\xff', file=sys.stderr)")
    executor.start(spec(), "x")
    [(_, outcome)] = executor.wait()
    assert outcome.state is JobState.SUCCEEDED
    events = [json.loads(line) for line in (tmp_path / "logs" / "split.jsonl").read_text().splitlines()]
    assert {event["event"] for event in events} == {"output"}
    assert {"{not json", "b'\\xff'"} == {event["text"] for event in events}


def test_an_unwritable_log_does_not_lose_the_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs" / "split.jsonl").mkdir(parents=True)
    script(monkeypatch, tmp_path, 'print(\'{"event": "error", "what": "mine"}\'); raise SystemExit(65)')
    executor = LocalExecutor(LocalStore(tmp_path / "store"), tmp_path / "logs")
    executor.start(spec(), "x")
    [(_, outcome)] = executor.wait()
    assert outcome.exit_code == 65
    assert outcome.error == {"event": "error", "what": "mine"}


def test_stop_ends_what_runs(executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, tmp_path, "import threading; threading.Event().wait()")
    executor.start(spec(), "x")
    executor.stop()
    [(_, outcome)] = executor.wait()
    assert outcome.exit_code == -15


DEAF = """
import pathlib, signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[0] + ".told").touch())
pathlib.Path(sys.argv[0] + ".runs").touch()
while True:
    threading.Event().wait(0.05)
"""


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_stage_here_has_as_long_to_stop_as_in_a_pod() -> None:
    assert local.STOP_PATIENCE_S == GRACE_S


def test_a_stage_that_does_not_stop_is_killed_in_the_end(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SILENCE_S", 0.05)
    monkeypatch.setattr(local, "STOP_PATIENCE_S", 0.2)
    script(monkeypatch, tmp_path, DEAF)
    executor.start(spec(), "x")
    wait_for(tmp_path / "python.runs")
    executor.stop()
    [(_, outcome)] = executor.wait()
    assert (tmp_path / "python.told").exists()
    assert outcome.exit_code == -9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_at_once(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    script(monkeypatch, tmp_path, DEAF)
    executor.start(spec(), "x")
    wait_for(tmp_path / "python.runs")

    def interrupt() -> None:
        wait_for(tmp_path / "python.told")
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def terminate(*_: object) -> None:
        raise Terminated("terminated")

    monkeypatch.setattr(local, "STOP_PATIENCE_S", 120.0)
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        threading.Thread(target=interrupt).start()
        started_s = time.monotonic()
        executor.stop()
        assert time.monotonic() - started_s < local.STOP_PATIENCE_S
    finally:
        signal.signal(signal.SIGTERM, before)
    [(_, outcome)] = executor.wait()
    assert outcome.exit_code == -9


def test_heavy_stages_run_one_at_a_time_and_memory_is_counted(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, tmp_path, "import threading; threading.Event().wait()")
    huge = Resources(1e6, is_heavy=True)
    assert executor.has_room(huge)  # alone, anything may try
    executor.start(spec(resources=Resources(1.0, is_heavy=True)), "x")
    assert not executor.has_room(Resources(1.0, is_heavy=True))
    assert not executor.has_room(Resources(1e6))
    assert executor.has_room(Resources(0.1))
    executor.stop()
