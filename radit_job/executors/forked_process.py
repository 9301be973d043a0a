"""A stage's process that finds the model libraries imported: multiprocessing's forkserver.

Importing torch, sentence-transformers and peft takes 11 s of a core where this was measured, in each of up to eight
stages: more than most of them compute in a small run. One process, the server, imports them once and does nothing
else; each stage is forked from it, and shares nothing but these pages.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import BinaryIO

PRELOADED = ["radit_job.executors.preloading"]  # by name: the controller itself must not import it
# Where a driver may be at work, a process that has looked for a GPU cannot be forked.
GPU_DEVICES = ("nvidiactl", "kfd", "dxg")
DEVICES = Path("/dev")
LONGEST_FOLDER = 70  # characters; a socket's path has 108 at most, and multiprocessing's names take 32 and more
_CONTEXT = multiprocessing.get_context("forkserver") if sys.platform == "linux" else None
_REAPING = threading.Lock()  # multiprocessing reads an exit code once, also when it starts another process


def can_fork(devices: Path = DEVICES) -> bool:
    """Whether stages may be forked here: on Linux, without a GPU, where a socket can be in the temporary folder."""
    try:
        has_place = len(tempfile.gettempdir()) <= LONGEST_FOLDER
    except FileNotFoundError:  # a container whose file system is read-only
        return False
    has_gpu = any((devices / name).exists() for name in GPU_DEVICES)
    return _CONTEXT is not None and has_place and not has_gpu


class ForkedProcess:
    """`python -m MODULE ARGUMENTS` with its output in a pipe; of subprocess.Popen, what LocalExecutor needs.

    Its standard input is a pipe that closes when this process ends, and it leads a session of its own. The first one
    takes as long to start as the imports do. Raises OSError or EOFError where the server cannot start.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], module: str = "radit_job") -> None:
        assert _CONTEXT is not None, "see can_fork"  # noqa: S101
        _CONTEXT.set_forkserver_preload(PRELOADED)
        theirs, self._input = _CONTEXT.Pipe(duplex=False)
        output, written = _CONTEXT.Pipe(duplex=False)
        work = (module, list(arguments), dict(environment), theirs, written)
        self._process = _CONTEXT.Process(target=_be_stage, args=work)
        with _REAPING:
            self._process.start()
        theirs.close()
        written.close()
        self.stdout: BinaryIO = os.fdopen(os.dup(output.fileno()), "rb")
        output.close()
        self._code: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._reap, daemon=True, name=f"end of {' '.join(arguments[:2])}").start()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code when it has ended; subprocess.TimeoutExpired if it has not in `timeout` seconds."""
        if not self._ended.wait(timeout) or self._code is None:
            raise subprocess.TimeoutExpired("stage", timeout or 0.0)
        return self._code

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        with _REAPING:
            if self._code is None and self._process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _reap(self) -> None:
        wait([self._process.sentinel])
        with _REAPING:
            self._process.join()
            self._code = self._process.exitcode
        self._input.close()  # if the server was killed, the stage still runs, and must not
        self._ended.set()


def _be_stage(
    module: str, arguments: list[str], environment: dict[str, str], stdin: Connection, output: Connection
) -> None:
    """In the forked process."""
    os.setsid()
    for connection, numbers in ((stdin, (0,)), (output, (1, 2))):
        for number in numbers:
            os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    with suppress(OSError):  # what ps and top show in place of the server's name
        Path("/proc/self/comm").write_text("-".join(["radit", *arguments[1:2]]), encoding="utf-8")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
