"""A container as a process of this machine: started, logged, stopped, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

OnCommand = Callable[[list[str], dict[str, str]], "int | tuple[int, str] | None"]


class Log:
    """A container's output, line by line with its time, for readers that may wait for more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[tuple[str, bytes]] = []
        self._more = threading.Condition()
        self._closed = False

    def append(self, line: bytes) -> None:
        """Add one line."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        with self._more:
            self._lines.append((stamp, line if line.endswith(b"\n") else line + b"\n"))
            with self._path.open("ab") as file:
                file.write(stamp.encode() + b" " + self._lines[-1][1])
            self._more.notify_all()

    def close(self) -> None:
        """There is no more."""
        with self._more:
            self._closed = True
            self._more.notify_all()

    def lines(self) -> list[tuple[str, bytes]]:
        """What there is."""
        with self._more:
            return list(self._lines)

    def follow(self, start: int, is_wanted: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        """Line by line from the given one, until the container has ended or the reader is no longer wanted."""
        while True:
            with self._more:
                while len(self._lines) <= start and not self._closed and is_wanted():
                    self._more.wait(0.2)  # is_wanted is not announced
                if len(self._lines) <= start or not is_wanted():
                    return
                line = self._lines[start]
            start += 1
            yield line


class Container:
    """One run of a command, in threads of its own; `ended` is called once with the exit code."""

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str],
        folder: Path,
        on_command: OnCommand | None,
        ended: Callable[[int, str], None],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(folder / "log")
        self.termination_log = folder / "termination-log"
        self._argv, self._env, self._folder, self._on_command = argv, env, folder, on_command
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._reported = False
        self._reason = ""  # why it ended, where the exit code does not say it: OOMKilled
        self._signal: signal.Signals | None = None  # asked for before the process was there
        self._timer: threading.Timer | None = None
        self._thread = threading.Thread(target=self._run, name=f"container {folder.name}", daemon=True)

    def start(self) -> None:
        """Run the command."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL when the grace period is over."""
        self._send(signal.SIGTERM)
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(grace_s, self.kill)
            self._timer.daemon = True
            self._timer.start()

    def kill(self, reason: str = "") -> None:
        """SIGKILL to all its processes; a Python callable cannot be killed and is only given up."""
        self._reason = reason or self._reason
        self._send(signal.SIGKILL)
        if self._process is None and self._thread.is_alive() and self._on_command is not None:
            self._report(137)

    def join(self) -> None:
        """Wait until nothing of it runs; a Python callable is not waited for."""
        if self._timer is not None:
            self._timer.cancel()
        if self._thread.ident is not None and (self._process is not None or self._on_command is None):
            self._thread.join(10)

    def _send(self, number: signal.Signals) -> None:
        with self._lock:
            self._signal = number
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    if number is signal.SIGKILL:
                        os.killpg(self._process.pid, number)
                    else:
                        self._process.send_signal(number)

    def _run(self) -> None:
        if self._on_command is not None:
            result = self._on_command(self._argv, self._env)
            if result is not None:
                code, text = result if isinstance(result, tuple) else (result, "")
                for line in text.encode().splitlines():
                    self.log.append(line)
                self._report(code)
                return
        try:
            with self._lock:
                if self._signal is not None:  # stopped before it began
                    self._process = None
                else:
                    self._process = subprocess.Popen(
                        self._argv, env=self._env, cwd=self._folder, stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                    )  # fmt: skip
        except OSError:
            self._reason = "StartError"
            self._report(128)
            return
        if self._process is None:
            self._report(137)
            return
        reader = threading.Thread(target=self._read, name=f"{self._thread.name} output", daemon=True)
        reader.start()
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a container ends with its first process
        reader.join(5)
        self._report(128 - code if code < 0 else code)

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)
        self._process.stdout.close()

    def _report(self, code: int) -> None:
        with self._lock:
            if self._reported:
                return
            self._reported = True
            if self._timer is not None:
                self._timer.cancel()
        self.log.close()
        self._ended(code, self._reason)
