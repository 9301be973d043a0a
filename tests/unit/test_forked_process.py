"""Stages forked from a process that has the libraries: they behave as processes of their own."""

import json
import os
import signal
import subprocess
from multiprocessing import forkserver
from pathlib import Path

import pytest

from radit_job.executors.forked_process import ForkedProcess, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="stages are forked on Linux, and where no GPU is")


@pytest.fixture(scope="module", autouse=True)
def a_server_of_our_own() -> None:
    """Another test may have started one, for another purpose: multiprocessing knows one server in a process."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def forked(*arguments: str) -> ForkedProcess:
    return ForkedProcess(arguments, {**os.environ, "RADIT_NAME": "a stage"}, module="tests.unit.forked_stage")


def test_a_stage_finds_the_libraries_and_is_else_a_process_of_its_own() -> None:
    process = forked("say", "65")
    said, error = process.stdout.read().splitlines()
    assert json.loads(said) == {
        "heavy": ["torch", "sentence_transformers", "peft"],
        "name": "a stage",
        "leads": True,
        "comm": "radit-65",
    }
    assert error == b"to stderr"
    assert process.wait() == process.poll() == 65


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    process = forked("wait")
    assert process.stdout.readline() == b"waits\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait() == (1 if number is signal.SIGINT else -number)
    process.kill()  # nothing happens


def test_a_stage_whose_server_was_killed_fails_and_does_not_go_on() -> None:
    process = forked("listen")
    pid = int(process.stdout.readline())
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    assert process.wait() != 0
    assert process.stdout.readline() == b"nobody is there\n"
    assert process.stdout.read() == b""  # it has ended
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    again = forked("say", "0")  # by another server
    assert b"a stage" in again.stdout.read()
    assert again.wait() == 0


def test_a_signal_to_the_controller_s_group_does_not_end_the_server() -> None:
    process = forked("wait")
    assert process.stdout.readline() == b"waits\n"
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert os.getpgid(server) != os.getpgid(0)
    os.kill(server, signal.SIGTERM)  # as systemd does, which looks at no group
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM  # the server has told it


def test_what_is_printed_comes_at_once_though_nobody_flushes() -> None:
    process = forked("print")
    assert process.stdout.readline() == b"printed\n"
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_nothing_is_forked_where_a_socket_s_path_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/t" * 50)
    assert not can_fork(tmp_path)


def test_nothing_is_forked_beside_a_gpu_s_driver(tmp_path: Path) -> None:
    assert can_fork(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not can_fork(tmp_path)
