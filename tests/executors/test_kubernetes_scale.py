"""A stage in a thousand shards: what the controller holds in memory, and how much it asks of the API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.servers.kubernetes.server import KubernetesServer

MAX_RSS_MIB = 200
CONTROLLER = """
import json, sys
from radit_job.config.cluster import Kubernetes
from radit_job.executors.kubernetes.client import connect
from radit_job.executors.kubernetes.executor import KubernetesExecutor
from radit_job.jobs import JobSpec, Outcome
from radit_job.store import open_store

executor = KubernetesExecutor(connect(), Kubernetes(), open_store(sys.argv[1]))
executor.start(JobSpec("many", "answer", 1, "0123456789abcdef", {}, (), shards=int(sys.argv[2])), "spec.json")
outcome = None
while outcome is None:
    outcome = next((news for _, news in executor.wait() if isinstance(news, Outcome)), None)
executor.stop()
status = open("/proc/self/status").read()  # its own peak: ru_maxrss would begin with that of the process that forked it
rss_mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"state": outcome.state, "rss_mib": rss_mib}))
"""


def run_shards(folder: Path, shards: int) -> tuple[float, int]:
    """The controller's peak memory in MiB, and the number of its requests."""
    with KubernetesServer(folder / "cluster") as server:
        server.on_command = lambda argv, env: (0, "done\n")
        command = [sys.executable, "-c", CONTROLLER, str(folder / "store"), str(shards)]
        env = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
        plain = json.loads(ended.stdout.splitlines()[-1])
        assert plain["state"] == "succeeded"
        return float(plain["rss_mib"]), server.count()


def test_a_thousand_shards_fit_in_little_memory_and_few_requests(tmp_path: Path) -> None:
    _, n_few = run_shards(tmp_path / "few", 10)
    rss_mib, n_many = run_shards(tmp_path / "many", 1_000)
    assert rss_mib < MAX_RSS_MIB
    assert n_many <= n_few * 100  # no faster than the shards
    assert n_many <= 1_000 + 20
