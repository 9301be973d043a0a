"""One namespace of the small API server, a store, and executors that come and go; for the executor's tests."""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radit_job.config.cluster import Kubernetes
from radit_job.executors.kubernetes.client import KubernetesClient
from radit_job.executors.kubernetes.executor import KubernetesExecutor
from radit_job.executors.kubernetes.manifest import job_name
from radit_job.jobs import Condition, JobSpec, Outcome, Resources
from radit_job.store import LocalStore
from radit_job.store.artifacts import publish
from tests.servers.kubernetes.server import KubernetesServer

LOG = "runs/helper/logs/{stage}.jsonl"


class Cluster:
    """One namespace, a store, and executors that come and go."""

    def __init__(self, server: KubernetesServer, client: KubernetesClient, folder: Path) -> None:
        self.server, self.client, self.folder = server, client, folder
        self.store = LocalStore(folder / "store")
        self.gate = folder / "gate"
        self._news: dict[KubernetesExecutor, queue.Queue[Any]] = {}

    def settings(self, script: str, **more: Any) -> Kubernetes:
        container = {"name": "stage", "command": ["sh", "-c", script]}
        patch = {"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}
        return Kubernetes.model_validate({"profiles": {"cpu": {"pod_template": patch}}, **more})

    def executor(self, script: str = "true", **more: Any) -> KubernetesExecutor:
        executor = KubernetesExecutor(self.client, self.settings(script, **more), self.store)
        self._news[executor] = queue.Queue()
        return executor

    def name(self, spec: JobSpec) -> str:
        return job_name(spec.stage, spec.key, self.store.url)

    def waiting(self) -> str:
        """A script that prints a line and goes on when the gate is opened."""
        return f"echo waiting; while [ ! -e {self.gate} ]; do sleep 0.02; done"

    def run(self, executor: KubernetesExecutor, *specs: JobSpec) -> None:
        """Start the stages and wait for news in a thread, as the controller does."""

        def loop() -> None:
            ended = 0
            try:
                for spec in specs:
                    executor.start(spec, "runs/helper/jobs/x.json")
                while ended < len(specs):
                    for item in executor.wait():
                        ended += isinstance(item[1], Outcome)
                        self._news[executor].put(item)
            except Exception as error:
                self._news[executor].put(error)

        threading.Thread(target=loop, daemon=True).start()

    def until(self, executor: KubernetesExecutor, is_it: Callable[[Any], bool]) -> Any:
        """The first news of a kind; what comes before is dropped."""
        while True:
            news = self._news[executor].get(timeout=20)
            if isinstance(news, Exception):
                raise news
            if is_it(news[1]):
                return news[1]

    def outcome(self, executor: KubernetesExecutor) -> Outcome:
        outcome: Outcome = self.until(executor, lambda news: isinstance(news, Outcome))
        return outcome

    def ended(self, executor: KubernetesExecutor, spec: JobSpec) -> Outcome:
        self.run(executor, spec)
        outcome = self.outcome(executor)
        executor.stop()
        return outcome

    def until_running(self, executor: KubernetesExecutor) -> Condition:
        condition: Condition = self.until(executor, is_running)
        return condition

    def log(self, stage: str = "split") -> list[dict[str, Any]]:
        data = self.store.read(LOG.format(stage=stage)) or b""
        return [json.loads(line) for line in data.splitlines()]

    def stop(self) -> None:
        for executor in self._news:
            executor.stop()


def spec_of(stage: str = "split", **more: Any) -> JobSpec:
    return JobSpec("helper", stage, 1, uuid.uuid4().hex, {}, (), resources=Resources(0.1), **more)


def is_running(news: Any) -> bool:
    return isinstance(news, Condition) and news.phase == "running"


def is_pending(news: Any) -> bool:
    return isinstance(news, Condition) and news.phase == "pending"


def commit(cluster: Cluster, spec: JobSpec) -> None:
    folder = cluster.folder / "out" / uuid.uuid4().hex / "part"
    folder.mkdir(parents=True)
    (folder / "file.txt").write_text("x")
    publish(cluster.store, spec.stage, spec.key, folder.parent, ["part"], {}, replace=spec.replace)


def uid(cluster: Cluster, spec: JobSpec) -> str:
    [job] = [job for job in cluster.server.objects("jobs") if job["metadata"]["name"] == cluster.name(spec)]
    return str(job["metadata"]["uid"])


def left_by(cluster: Cluster, executor: KubernetesExecutor, spec: JobSpec, phase: str) -> str:
    """The uid of a Job whose controller stopped while it stood so."""
    cluster.run(executor, spec)
    cluster.until(executor, lambda news: isinstance(news, Condition) and news.phase == phase)
    executor.stop()
    return uid(cluster, spec)
