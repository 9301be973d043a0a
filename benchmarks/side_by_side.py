"""Ways to do one job, each in a process of its own, in turn: what every benchmark here is made of.

A benchmark is a script with two faces. Called as people call it, it starts itself once per way and round with
`--only WAY`, in an order that turns from round to round, so that a machine that slows down hurts all alike. Called with
`--only WAY` it does the job once and prints one JSON line: {"seconds", "cpu_s", "peak_gib", "check": what came out, to
be held against the peer's}. Loading models is not in `seconds`, unless the benchmark says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
LM, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"


@dataclass(frozen=True)
class Compared:
    """One way beside the peer."""

    way: str
    ratio: float  # median of the rounds' own ratios: the peer's seconds by this way's
    low: float
    high: float
    seconds: float  # median
    peak_gib: float
    check: Any
    facts: dict[str, Any] = field(default_factory=dict)  # what else its first process told


class Timer:
    """Seconds on the clock and of the processor, all threads, between `with` and its end."""

    def __enter__(self) -> Timer:
        self.start_s, self.start_cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self.start_s, time.process_time() - self.start_cpu_s
        self.peak_gib, self.children_gib = (_peak_gib(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    def print(self, check: Any = None, *, children: bool = False, **facts: Any) -> None:
        """What the parent process reads; `children`: the work was done by processes that this one started."""
        peak_gib = self.children_gib if children else self.peak_gib
        line = {"seconds": self.seconds, "cpu_s": self.cpu_s, "peak_gib": peak_gib, "check": check, **facts}
        print(json.dumps(line), flush=True)


def _peak_gib(who: int) -> float:
    """Linux lets a process begin with the peak of the one that started it, and only VmHWM forgets that."""
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.is_file():
        lines = status.read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    return resource.getrusage(who).ru_maxrss / 2**20


def options(
    doc: str, ways: Sequence[str], rounds: int = 2, default: Sequence[str] | None = None
) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=ways, default=default or ways, metavar="WAY", help=", ".join(ways))
    parser.add_argument("--json", action="store_true", help="one JSON line in place of the table")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=ways, help="do it this way, once, in this process")
    return parser


def passed_on(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """These options as the command line has them, for the processes that do the work."""
    return [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]


def alternate(script: str, ways: Sequence[str], rounds: int, threads: int, more: Sequence[str] = ()) -> dict[str, list]:
    """By way, what each round's process printed."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    found: dict[str, list] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            command = [sys.executable, script, "--only", way, "--threads", str(threads), *more]
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    return found


MEASURED = ("seconds", "cpu_s", "peak_gib", "check")


def compare(found: dict[str, list], peer: str, clock: str = "seconds") -> list[Compared]:
    """Each way, the peer first. `clock` may be cpu_s, which a busy machine falsifies less."""
    rows = []
    for way in [peer, *(way for way in found if way != peer)]:
        ratios = [theirs[clock] / mine[clock] for theirs, mine in zip(found[peer], found[way], strict=True)]
        rows.append(
            Compared(
                way=way,
                ratio=median(ratios),
                low=min(ratios),
                high=max(ratios),
                seconds=median(run[clock] for run in found[way]),
                peak_gib=max(run["peak_gib"] for run in found[way]),
                check=found[way][0]["check"],
                facts={name: value for name, value in found[way][0].items() if name not in MEASURED},
            )
        )
    return rows


def show(rows: Sequence[Compared], says: Callable[[Compared], str] = lambda row: "", as_json: bool = False) -> None:
    """One line per way: seconds, how many times as fast as the peer with the rounds' spread, peak memory."""
    if as_json:
        print(json.dumps([asdict(row) | {"check": says(row)} for row in rows]), flush=True)
        return
    print(f"{'':34}{'seconds':>9}{'times':>8}{'spread':>13}{'peak GiB':>10}")
    for row in rows:
        spread = f"{row.low:.2f}-{row.high:.2f}"
        print(f"{row.way:34}{row.seconds:9.2f}{row.ratio:8.2f}{spread:>13}{row.peak_gib:10.2f}  {says(row)}")
