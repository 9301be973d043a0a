"""One namespace, one bucket prefix, one configuration: where a scenario takes place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client as official

from radit_job.store import open_store
from tests.servers.kubernetes import KubernetesServer
from tests.servers.seaweedfs import SeaweedFS

STAND_IN = (Path(__file__).parent / "stand_in.py").read_text()
ROOT = Path(__file__).parents[2]
PATIENCE_S = 180.0
POLL_S = 0.1


@dataclass
class Cluster:
    """A cluster, small or real."""

    kubeconfig: Path
    image: str
    api: Any
    small: KubernetesServer | None
    stop_api: Callable[[], Any] | None
    start_api: Callable[[], Any] | None

    @property
    def core(self) -> Any:
        return official.CoreV1Api(self.api)

    @property
    def batch(self) -> Any:
        return official.BatchV1Api(self.api)


class Bench:
    """Commands run here as a person would run them; pods run a stand-in for their stage."""

    def __init__(self, folder: Path, cluster: Cluster, namespace: str, s3: SeaweedFS) -> None:
        self.folder = folder
        self.cluster = cluster
        self.namespace = namespace
        self.s3 = s3
        self.url = s3.store_url(f"bucket/{namespace}")
        (folder / "corpus").mkdir(parents=True)
        (folder / "corpus" / "a.txt").write_text("One document.")
        (folder / "questions.jsonl").write_text('{"question": "Which?", "answer": "One."}')
        os.environ.update(s3.environment)
        self.store = open_store(self.url)
        self._started: list[subprocess.Popen[str]] = []
        self._tell_images()

    def config(self, **settings: Any) -> Path:
        """The configuration file; `settings` go into its section `kubernetes`."""
        python = "python" if self.cluster.small is None else sys.executable
        command = [python, "-c", STAND_IN]
        profile = {
            **{"cpu": 0.05, "memory_gib": 0.25, "ephemeral_storage_gib": 0.1, "shared_memory_gib": 0.05},
            "env_from": [{"secret": "radit-s3"}],
            "pod_template": {"spec": {"containers": [{"name": "stage", "command": command}]}},
            **settings.pop("profile", {}),
        }
        plain = {
            "name": "chain",
            "store": self.url,
            "corpus": {"paths": ["corpus"]},
            "questions": {"source": "file", "path": "questions.jsonl"},
            "kubernetes": {
                **{"namespace": self.namespace, "image": self.cluster.image, "retries": 2},
                "profiles": {"cpu": profile, "gpu": {**profile, "gpus": 1}},
                **settings,
            },
        }
        path = self.folder / "chain.yaml"
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
        return path

    def environment(self) -> dict[str, str]:
        own = {"KUBECONFIG": str(self.cluster.kubeconfig), "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
        return {**os.environ, **self.s3.environment, **own}

    def radit(self, *arguments: str, timeout_s: float = PATIENCE_S, **environment: str) -> Ended:
        """Run a command to its end."""
        return self.start(*arguments, **environment).wait(timeout_s)

    def run(self, *arguments: str, **settings: Any) -> Ended:
        """`radit run` to its end, in a configuration with these settings."""
        return self.radit("run", str(self.config(**settings)), "--executor", "kubernetes", *arguments)

    def start_run(self, *arguments: str, environment: dict[str, str] | None = None, **settings: Any) -> Command:
        """`radit run`, started."""
        path = str(self.config(**settings))
        return self.start("run", path, "--executor", "kubernetes", *arguments, **(environment or {}))

    def start(self, *arguments: str, **environment: str) -> Command:
        process = subprocess.Popen(
            [sys.executable, "-m", "radit_job", *arguments],
            cwd=self.folder,
            env={**self.environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return Command(process)

    def login_without_rights(self) -> str:
        """A kubeconfig whose user, the service account `radit`, may do nothing yet."""
        if self.cluster.small is not None:
            self.cluster.small.allow_only([], namespace=self.namespace)
            return str(self.cluster.kubeconfig)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "radit"}}
        self.cluster.core.create_namespaced_service_account(self.namespace, account)
        asked: dict[str, Any] = {"spec": {"expirationSeconds": 3600}}
        token = self.cluster.core.create_namespaced_service_account_token("radit", self.namespace, asked).status.token
        plain = yaml.safe_load(self.cluster.kubeconfig.read_text())
        plain["users"] = [{"name": "radit", "user": {"token": token}}]
        plain["contexts"][0]["context"]["user"] = "radit"
        plain["current-context"] = plain["contexts"][0]["name"]
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(plain))
        return str(path)

    def grant_the_role(self) -> None:
        """Exactly what k8s/base gives to the controller."""
        role, binding = yaml.safe_load_all((ROOT / "k8s" / "base" / "role.yaml").read_text())
        if self.cluster.small is not None:
            self.cluster.small.allow_only(role["rules"], namespace=self.namespace)
            return
        access = official.RbacAuthorizationV1Api(self.cluster.api)
        access.create_namespaced_role(self.namespace, {**role, "metadata": {"name": role["metadata"]["name"]}})
        subjects = [{"kind": "ServiceAccount", "name": "radit", "namespace": self.namespace}]
        name = {"name": binding["metadata"]["name"]}
        access.create_namespaced_role_binding(self.namespace, {**binding, "metadata": name, "subjects": subjects})

    def behave(self, stage: str, **behaviour: Any) -> None:
        """What a stage's pods shall do: see stand_in.py."""
        self.store.write(f"behaviour/{stage}.json", json.dumps(behaviour).encode())

    def open_gate(self, gate: str) -> None:
        self.store.write(gate, b"")

    def n_starts(self) -> dict[str, int]:
        """How often each stage's command was started."""
        counts: dict[str, int] = {}
        for info in self.store.list("starts/"):
            stage = info.name.split("/")[1]
            counts[stage] = counts.get(stage, 0) + 1
        return counts

    def jobs(self) -> dict[str, Any]:
        return {job.metadata.name: job for job in self.cluster.batch.list_namespaced_job(self.namespace).items}

    def pods(self, stage: str) -> list[Any]:
        selector = f"radit-job.io/stage={stage}"
        return list(self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def running_pod(self, stage: str) -> str:
        """The name of a stage's pod, once its command has started."""
        self.until(lambda: self.n_starts().get(stage, 0) > 0, f"{stage} never started")

        def names() -> list[str]:
            return [pod.metadata.name for pod in self.pods(stage) if pod.status.phase == "Running"]

        return str(self.until(names, f"no pod of {stage} is running")[0])

    def has_no_job(self) -> bool:
        """Once what was deleted is gone."""
        self.until(lambda: not self.jobs(), "a Job is left")
        return True

    def until(self, condition: Callable[[], Any], trouble: str, timeout_s: float = PATIENCE_S) -> Any:
        """Poll until a condition holds; its value."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline_s, trouble
            time.sleep(POLL_S)
        return value

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.read("runs/chain/run.json") or b"{}")
        return found

    def stop_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()

    def _tell_images(self) -> None:
        if self.cluster.small is not None:
            self.cluster.small.images = {self.cluster.image}


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    output: str
    events: list[dict[str, Any]]

    def says(self, *texts: str) -> bool:
        """Whether a person who read the output found each of these texts."""
        return all(text in self.output for text in texts)


class Command:
    """A command that runs; its output is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float = PATIENCE_S) -> Ended:
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return Ended(code, "".join(self._lines), list(self.events()))

    def events(self) -> Iterator[dict[str, Any]]:
        for line in list(self._lines):
            if line.startswith("{"):
                yield json.loads(line)

    def has_said(self, text: str) -> bool:
        return any(text in line for line in list(self._lines))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
