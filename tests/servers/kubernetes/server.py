"""The server as a test holds it: starts, stops, and can be told to misbehave."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.servers.kubernetes.authorization import Authorizer, Grant
from tests.servers.kubernetes.collector import Collector
from tests.servers.kubernetes.connections import HttpServer, Recorded
from tests.servers.kubernetes.containers import OnCommand
from tests.servers.kubernetes.control_loop import ControlLoop
from tests.servers.kubernetes.events import Recorder
from tests.servers.kubernetes.faults import Fault, Faults
from tests.servers.kubernetes.http_server import Handler
from tests.servers.kubernetes.job_pods import JobPods
from tests.servers.kubernetes.jobs import JobController
from tests.servers.kubernetes.pods import Kubelet
from tests.servers.kubernetes.registry import Registry
from tests.servers.kubernetes.resources import BY_KEY, NAMESPACES, NODES, PODS, QUOTAS
from tests.servers.kubernetes.scheduling import node_object
from tests.servers.kubernetes.storage import Storage

Json = dict[str, Any]
ROOT = Path(__file__).parents[3]
CAPACITY = {"cpu": "1000", "memory": "4000Gi", "ephemeral-storage": "4000Gi", "pods": "5000"}


class KubernetesServer:
    """`with KubernetesServer(folder) as server:` serves until the end of the block, and ends all that it started."""

    ADMIN = "kubernetes-admin"

    def __init__(self, folder: Path, namespace: str = "default", *, seed: int = 7) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.namespace = folder, namespace
        self.version = "v1.35.0"
        self.bookmark_every_s = 60.0
        self.user = f"system:serviceaccount:{namespace}:radit"
        self.token, self.admin_token = "token-of-the-client", "token-of-the-test"
        self.users = {self.token: self.user, self.admin_token: self.ADMIN}
        self.requests: list[Recorded] = []
        self.errors: list[BaseException] = []  # the server's own; raised at the end of the block
        self.stopping = threading.Event()
        self.storage, self.authorizer, self.faults = Storage(seed), Authorizer(), Faults()
        self.registry = Registry(self.storage)
        recorder = Recorder(self.storage)
        self.job_pods = JobPods(self.storage, self.registry, recorder)
        self.jobs = JobController(self.storage, self.job_pods, recorder)
        self.collector = Collector(self.storage, self.registry)
        self.host_env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.kubelet = Kubelet(self.storage, recorder, folder / "pods", self.host_env)
        self._port = 0
        self._http: HttpServer | None = None
        self._thread: threading.Thread | None = None
        self._controllers = ControlLoop(self.storage, (self.jobs, self.collector, self.kubelet), self.errors)
        self.registry.create(NAMESPACES, "", {"metadata": {"name": namespace}})
        if namespace != "default":
            self.registry.create(NAMESPACES, "", {"metadata": {"name": "default"}})
        self.add_node("node-1")

    # --- life

    def __enter__(self) -> KubernetesServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
        self.kubelet.kill_all()
        if self.errors and error is None:
            raise self.errors[0]

    def start(self) -> None:
        """Serve, on the same port as before; controllers and pods go on where they were."""
        if self._http is not None:
            return
        self.stopping.clear()
        self._http = HttpServer(self._port, self, Handler)
        self._port = self._http.server_address[1]
        serve = self._http.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.05,), name="kubernetes http", daemon=True)
        self._thread.start()
        self._controllers.start()
        for name, token in (("kubeconfig", self.token), ("admin.kubeconfig", self.admin_token)):
            (self.folder / name).write_text(yaml.safe_dump(self._kubeconfig(token)))

    def stop(self) -> None:
        """As when the API server is down: nothing answers and controllers stand still, while containers run on."""
        if self._http is None:
            return
        self.stopping.set()
        self._controllers.stop()
        self._http.close()
        if self._thread is not None:
            self._thread.join(10)
        self._http = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        """Of the client that is tested; `allow_only` restricts it."""
        return self.folder / "kubeconfig"

    @property
    def admin_kubeconfig(self) -> Path:
        """Of the test itself: everything is allowed."""
        return self.folder / "admin.kubeconfig"

    # --- the cluster

    @property
    def images(self) -> set[str] | None:
        """The images that can be pulled; None, as at first: all."""
        return self.kubelet.images

    @images.setter
    def images(self, images: Iterable[str] | None) -> None:
        self.kubelet.images = None if images is None else set(images)
        self.kubelet.retry()

    @property
    def on_command(self) -> OnCommand | None:
        """Called with (argv, env) in place of a process: an exit code, (exit code, output), or None for a process."""
        return self.kubelet.on_command

    @on_command.setter
    def on_command(self, on_command: OnCommand | None) -> None:
        self.kubelet.on_command = on_command

    @property
    def max_running(self) -> int:
        """Containers that run at a time; the others wait in ContainerCreating."""
        return self.kubelet.max_running

    @max_running.setter
    def max_running(self, n: int) -> None:
        self.kubelet.max_running = n

    @property
    def retry_backoff_s(self) -> float:
        """Before a failed pod is replaced: 0 at first, 10 in a real cluster; doubled with each failure."""
        return self.job_pods.retry_backoff_s

    @retry_backoff_s.setter
    def retry_backoff_s(self, backoff_s: float) -> None:
        self.job_pods.retry_backoff_s = backoff_s

    def set_time_scale(self, scale: float) -> None:
        """How long a second of activeDeadlineSeconds and ttlSecondsAfterFinished takes, in seconds."""
        self.jobs.time_scale = self.collector.time_scale = scale

    def add_node(
        self,
        name: str,
        labels: dict[str, str] | None = None,
        capacity: dict[str, str] | None = None,
        taints: Sequence[Json] = (),
    ) -> None:
        """Add a node, with a very large capacity unless one is given (`{"nvidia.com/gpu": "2"}` adds to it)."""
        node = node_object(name, labels or {}, {**CAPACITY, **(capacity or {})}, list(taints))
        with self.storage.changed:
            if self.storage.find(NODES, "", name) is not None:
                self.remove_node(name)
            self.storage.create(NODES, node)

    def remove_node(self, name: str) -> None:
        """Take a node away; pods on it stay."""
        with self.storage.changed:
            self.storage.remove(NODES, self.storage.get(NODES, "", name))

    def set_quota(self, name: str = "test-quota", namespace: str | None = None, **hard: int | str | None) -> None:
        """A ResourceQuota such as pods=0; None frees it, and no limit at all removes the quota."""
        namespace = namespace or self.namespace
        limits = {key: str(value) for key, value in hard.items() if value is not None}
        with self.storage.changed:
            before = self.storage.find(QUOTAS, namespace, name)
            if before is not None:
                self.storage.remove(QUOTAS, before)
            if limits:
                self.registry.create(QUOTAS, namespace, {"metadata": {"name": name}, "spec": {"hard": limits}})

    def oom(self, pod: str, namespace: str | None = None) -> None:
        """Kill a pod's command as the kernel does when memory is short."""
        self.kubelet.containers[self.object("pods", pod, namespace)["metadata"]["uid"]].kill("OOMKilled")

    def evict_by_kubelet(self, pod: str, message: str, namespace: str | None = None) -> None:
        """End a pod as its node does under pressure: the pod stays, failed, with reason Evicted."""
        with self.storage.changed:
            self.kubelet.evict(self.storage.get(PODS, namespace or self.namespace, pod), message)

    # --- faults

    def fail_next(self, n: int = 1, status: int = 500, *, retry_after: int | None = None, verb: str | None = None,
                  resource: str | None = None, takes_effect: bool = False) -> None:  # fmt: skip
        """Answer the next n matching requests with an error; `takes_effect`: do what they ask first."""
        self.faults.add(Fault(n, status, retry_after, verb=verb, resource=resource, takes_effect=takes_effect))

    def reset_connections(self, n: int = 1, *, verb: str | None = None, resource: str | None = None,
                          takes_effect: bool = False) -> None:  # fmt: skip
        """Break the connections of the next n matching requests instead of an answer."""
        self.faults.add(Fault(n, reset=True, verb=verb, resource=resource, takes_effect=takes_effect))

    def slow_next(self, n: int, delay_s: float, *, verb: str | None = None, resource: str | None = None) -> None:
        """Take so long over the next n matching requests."""
        self.faults.add(Fault(n, delay_s=delay_s, verb=verb, resource=resource))

    def drop_watches(self) -> int:
        """Break the connection of every watch; how many there were."""
        dropped = self._streams()
        for handler in dropped:
            handler.break_off()
        with self.storage.changed:
            self.storage.changed.notify_all()
        return len(dropped)

    def n_watches(self) -> int:
        """Watches that are open."""
        return len(self._streams())

    def compact(self) -> None:
        """Forget the history: a watch or a page from an older version gets 410 Gone."""
        self.storage.compact()

    # --- what is allowed, and what was asked

    def allow_only(self, rules: Sequence[Json], *, namespace: str | None = None,
                   cluster_rules: Sequence[Json] = ()) -> None:  # fmt: skip
        """Allow the client a Role's rules in one namespace (by default the server's), a ClusterRole's everywhere."""
        grants = [Grant(tuple(rules), namespace or self.namespace)]
        self.authorizer.only(*grants, Grant(tuple(cluster_rules), None))

    def allow_all(self) -> None:
        """Allow the client everything, as at first."""
        self.authorizer.everything()

    def review(self, body: Json, user: str) -> Json:
        """The answer to a SelfSubjectAccessReview."""
        return (Authorizer() if user == self.ADMIN else self.authorizer).review(body)

    def verbs_used(self) -> set[tuple[str, str, str]]:
        """(API group, resource, verb) of everything that the client asked for."""
        return {(one.group, one.resource, one.verb) for one in self.requests if one.user == self.user}

    def count(self, verb: str | None = None, resource: str | None = None) -> int:
        """The client's requests so far."""
        mine = [one for one in self.requests if one.user == self.user]
        return sum(verb in (None, one.verb) and resource in (None, one.resource) for one in mine)

    def objects(self, kind: str, namespace: str | None = None) -> list[Json]:
        """What is stored: pods, jobs, events, … (jobs is short for jobs.batch)."""
        resource = _resource(kind)
        return self.storage.list(resource, (namespace or self.namespace) if resource.namespaced else "")

    def object(self, kind: str, name: str, namespace: str | None = None) -> Json:
        """One stored object."""
        return self.storage.get(_resource(kind), namespace or self.namespace, name)

    def create(self, kind: str, body: Json, namespace: str | None = None) -> Json:
        """Create an object as the test: a Secret, a ConfigMap, …"""
        return self.registry.create(_resource(kind), namespace or self.namespace, body)

    def _streams(self) -> list[Any]:
        if self._http is None:
            return []
        with self._http.lock:
            return [one for one in self._http.handlers if one.streaming is not None and one.streaming.verb == "watch"]

    def _kubeconfig(self, token: str) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": self.namespace}}],
        }


def _resource(kind: str) -> Any:
    return next(one for key, one in BY_KEY.items() if kind in (key, one.plural))
