"""What the command line says, and the code it ends with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from radit_job.observe.events import emit
from radit_job.observe.terminal import show_events
from radit_job.pipeline.heartbeat import heartbeat
from radit_job.pipeline.runs import RunRecord, save_run
from radit_job.store import LocalStore, open_store
from tests.servers.seaweedfs import SeaweedFS


def radit(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "radit_job", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 0, "Usage:"),
        (["--version"], 0, "radit-job"),
        (["frobnicate"], 64, "No such command"),
        (["run"], 64, "Missing argument"),
        (["run", "nothere.yaml"], 64, "no such configuration file"),
        (["run", "small.yaml", "--executor", "slurm"], 64, "no executor 'slurm'"),
        (["run", "small.yaml", "--set", "retrieval.kk=3"], 64, "did you mean k?"),
        (["run", "small.yaml", "--store", "small.yaml"], 69, "give another one with --store"),
        (["run", "small.yaml"], 65, "papers: the folder is empty"),
        (["plan", "small.yaml", "--until", "foo"], 64, "no stage 'foo'"),
        (["status", "nope"], 64, "no run 'nope'"),
        (["results", "nope"], 64, "no run 'nope'"),
        (["check", "small.yaml"], 65, "fail"),
        (["gc"], 0, "Nothing to delete"),
        (["gc", "--older-than", "0"], 0, "Nothing to delete"),
        (["gc", "--older-than", "-1"], 64, "--older-than"),
    ],
)
def test_one_short_message_and_the_right_code(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "small.yaml").write_text("{name: small, corpus: {paths: [papers]}}")
    done = radit(*arguments, folder=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert words in said
    assert "Traceback" not in said


def test_debug_shows_where(tmp_path: Path) -> None:
    done = radit("run", "nothere.yaml", "--debug", folder=tmp_path)
    assert done.returncode == 64
    assert "Traceback" in done.stderr


def test_help_is_light(tmp_path: Path) -> None:
    code = "import sys, radit_job.cli; print(sorted({'pydantic', 'torch', 'rich', 'numpy', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_a_run_whose_controller_was_killed_is_cut_off_not_running(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / ".radit")
    save_run(store, RunRecord("small", "sha256:0", "local", "2026-01-01T00:00:00Z"))
    assert "cut off" in radit("status", "small", "--watch", folder=tmp_path).stdout
    with store.hold("run-small"):
        assert "running" in radit("status", "small", folder=tmp_path).stdout
        assert radit("gc", folder=tmp_path).returncode == 75


def test_gc_of_a_bucket_keeps_what_is_young_and_waits_for_runs_elsewhere(
    tmp_path: Path, s3_environment: SeaweedFS
) -> None:
    url = s3_environment.store_url(f"bucket/{tmp_path.name}")
    store = open_store(url)
    name = "artifacts/index/0123456789abcdef/of-some-pod/index/vectors"
    store.write(name, b"x")
    arguments = ("gc", "--yes", "--store", url)
    assert "Nothing to delete" in radit(*arguments, folder=tmp_path).stdout
    with heartbeat(store, "elsewhere"):
        done = radit(*arguments, "--older-than", "0", folder=tmp_path)
        assert (done.returncode, "at work: elsewhere" in done.stderr) == (75, True)
    assert store.read(name) == b"x"
    assert radit(*arguments, "--older-than", "0", folder=tmp_path).returncode == 0
    assert store.read(name) is None


def test_an_event_is_written_at_once_for_several_threads_write() -> None:
    class Pipe(io.StringIO):
        writes: ClassVar[list[str]] = []

        def write(self, text: str) -> int:
            self.writes.append(text)
            return len(text)

    with show_events(Pipe()):
        emit("log", message="one")
        emit("log", message="two")
    assert [json.loads(text)["message"] for text in Pipe.writes] == ["one", "two"]
    assert all(text.endswith("\n") for text in Pipe.writes)
