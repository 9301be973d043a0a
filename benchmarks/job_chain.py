"""From a stage's Job turning Complete to the next Job's creation, as a watch on the API server sees both.

    KUBECONFIG=... python -m benchmarks.job_chain --chains 30

Chains of empty stages (tests/cluster/stand_in.py) on the current kubeconfig's cluster; what RADIT_TEST_IMAGE and
RADIT_TEST_HOST mean is said in tests/cluster/conftest.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

from kubernetes import watch

from tests.cluster.bench import Bench
from tests.cluster.conftest import HOST, namespace_on, real_cluster
from tests.servers.seaweedfs import SeaweedFS

CHAIN = ("ingest", "index", "generate", "split", "augment")
BEFORE = {"index": "ingest", "generate": "ingest", "split": "generate", "augment": ("index", "split")}


class Stopwatch(threading.Thread):
    """Notes when each Job of a namespace was created, and when it turned Complete."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(daemon=True)
        self._bench = bench
        self.created_s: dict[str, float] = {}
        self.complete_s: dict[str, float] = {}

    def run(self) -> None:
        jobs = self._bench.cluster.batch.list_namespaced_job
        for event in watch.Watch().stream(jobs, self._bench.namespace):
            job, now_s = event["object"], time.monotonic()
            stage = job.metadata.labels["radit-job.io/stage"]
            self.created_s.setdefault(stage, now_s)
            if any(item.type == "Complete" for item in job.status.conditions or ()):
                self.complete_s.setdefault(stage, now_s)


def gaps_s(stopwatch: Stopwatch) -> list[float]:
    """For every Job but the first: its creation minus the completion of the last one that it waited for."""
    found = []
    for stage, before in BEFORE.items():
        names = (before,) if isinstance(before, str) else before
        found.append(stopwatch.created_s[stage] - max(stopwatch.complete_s[name] for name in names))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=30)
    arguments = parser.parse_args()
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        cluster = real_cluster()
        with SeaweedFS.started(Path(folder, "s3"), HOST) as s3:
            for number in range(arguments.chains):
                with namespace_on(cluster, s3, Path(folder, str(number))) as bench:
                    stopwatch = Stopwatch(bench)
                    stopwatch.start()
                    ended = bench.run("--until", CHAIN[-1])
                    assert ended.code == 0, ended.output
                    found += gaps_s(stopwatch)
                    print(f"chain {number + 1}: median so far {statistics.median(found):.3f} s", flush=True)
    deciles = statistics.quantiles(found, n=10)
    print(f"n {len(found)}  median {statistics.median(found):.3f} s  p10 {deciles[0]:.3f}  p90 {deciles[-1]:.3f}")
    print(f"least {min(found):.3f}  most {max(found):.3f}")


if __name__ == "__main__":
    main()
