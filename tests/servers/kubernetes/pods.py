"""Scheduler and kubelet in one: gives a pod a node, runs its command, and writes its status.

Only the first container of a pod runs. Its file system is this machine's: volumes are not mounted, and of the
container's own paths only the termination log is mapped, to a file of the pod.
"""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path
from typing import Any

from tests.servers.kubernetes import environment, pod_status
from tests.servers.kubernetes.containers import Container, OnCommand
from tests.servers.kubernetes.events import Recorder
from tests.servers.kubernetes.registry import disrupt
from tests.servers.kubernetes.resources import CONFIG_MAPS, NODES, PODS, SECRETS
from tests.servers.kubernetes.scheduling import Allocation, place
from tests.servers.kubernetes.storage import Change, Storage
from tests.servers.kubernetes.work_queue import WorkQueue

Json = dict[str, Any]
MESSAGE_BYTES = 4096  # of the termination log
TAIL_BYTES, TAIL_LINES = 2048, 80  # of the log, with FallbackToLogsOnError


class Kubelet:
    """Brings each pod forward by one step whenever something changes."""

    def __init__(self, storage: Storage, recorder: Recorder, folder: Path, host_env: dict[str, str]) -> None:
        self.queue = WorkQueue()
        self.images: set[str] | None = None  # None: every image can be pulled
        self.entrypoint = ["radit"]  # of every image
        self.max_running = 16
        self.on_command: OnCommand | None = None
        self.host_env = host_env
        self.containers: dict[str, Container] = {}  # by the pod's uid; kept for their logs as long as the pod is
        self._storage, self._recorder, self._folder = storage, recorder, folder
        self._allocation = Allocation()
        self._running: set[str] = set()  # uids
        self._to_start: deque[tuple[str, str]] = deque()  # pods on a node that wait for one of max_running
        self._unplaced: dict[tuple[str, str], None] = {}
        self._stuck: dict[tuple[str, str], bool] = {}  # no image, or no Secret: whether to try again
        self._ended: deque[tuple[str, str, str, int, str]] = deque()  # namespace, name, uid, exit code, reason
        storage.listeners.append(self._notice)

    def step(self) -> bool:
        """Do what is due; whether there was anything."""
        due = self.queue.pop_due()
        had_ended = bool(self._ended)
        while self._ended:
            self._finish(*self._ended.popleft())
        for namespace, name in due:
            pod = self._storage.find(PODS, namespace, name)
            if pod is not None:
                self._sync(pod)
        while self._to_start and len(self._running) < self.max_running:
            pod = self._storage.find(PODS, *self._to_start.popleft())
            if pod is not None and not _is_final(pod) and not pod["metadata"].get("deletionTimestamp"):
                self._start(pod)
        return bool(due) or had_ended

    def retry(self) -> None:
        """Look again at pods that wait for a node, an image or a Secret."""
        with self._storage.changed:
            for key in self._unplaced:
                self.queue.add(key)
            for key in self._stuck:
                self._stuck[key] = True
                self.queue.add(key)
            self._storage.changed.notify_all()

    def evict(self, pod: Json, message: str) -> None:
        """What the kubelet does under node pressure: kill the pod at once and keep it, failed."""
        disrupted = disrupt(self._storage, pod, "TerminationByKubelet", message)
        ended = {**disrupted, "status": pod_status.terminated(disrupted, 137, "Error", "")}
        self._storage.update(PODS, {**disrupted, "status": pod_status.evicted(ended, message)})
        self._recorder.say(pod, "Warning", "Evicted", message, "kubelet")
        if container := self.containers.get(pod["metadata"]["uid"]):
            container.kill("Error")

    def kill_all(self) -> None:
        """End every process."""
        for container in list(self.containers.values()):
            container.kill()
        for container in list(self.containers.values()):
            container.join()

    def _notice(self, change: Change) -> None:
        key = (change.namespace, change.object["metadata"]["name"])
        if change.resource == PODS.key and change.type == "DELETED":
            self._forget(change.object, key)
        elif change.resource == PODS.key:
            self.queue.add(key)
        elif change.resource in (NODES.key, SECRETS.key, CONFIG_MAPS.key):
            self.retry()

    def _forget(self, pod: Json, key: tuple[str, str]) -> None:
        uid = pod["metadata"]["uid"]
        self._unplaced.pop(key, None)
        self._stuck.pop(key, None)
        self._release(uid)
        if (container := self.containers.pop(uid, None)) and uid in self._running:
            container.kill()  # deleted by force: nobody waits for it
            self._running.discard(uid)

    def _sync(self, pod: Json) -> None:
        meta = pod["metadata"]
        key = (meta["namespace"], meta["name"])
        if _is_final(pod):
            self._release(meta["uid"])
            if meta.get("deletionGracePeriodSeconds"):
                self._storage.update(PODS, {**pod, "metadata": {**meta, "deletionGracePeriodSeconds": 0}})
        elif meta.get("deletionTimestamp"):
            self._terminate(pod)
        elif not pod["spec"].get("nodeName"):
            self._schedule(pod, key)
        elif meta["uid"] not in self.containers and self._stuck.get(key, not pod["status"].get("containerStatuses")):
            self._prepare(pod, key)

    def _schedule(self, pod: Json, key: tuple[str, str]) -> None:
        node, why = place(pod, self._storage.list(NODES), self._allocation)
        if node is None:
            self._unplaced[key] = None
            status = pod_status.unschedulable(pod, why)
            if status != pod["status"]:
                self._storage.update(PODS, {**pod, "status": status})
                self._recorder.say(pod, "Warning", "FailedScheduling", why, "default-scheduler")
            return
        self._unplaced.pop(key, None)
        self._allocation.take(node, pod)
        bound = {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": pod_status.scheduled(pod)}
        self._storage.update(PODS, bound)
        where = f"Successfully assigned {key[0]}/{key[1]} to {node}"
        self._recorder.say(pod, "Normal", "Scheduled", where, "default-scheduler")

    def _prepare(self, pod: Json, key: tuple[str, str]) -> None:
        """Have the image, then wait for a turn to run."""
        container = pod["spec"]["containers"][0]
        if self.images is not None and container["image"] not in self.images:
            self._lack_image(pod, key, container)
            return
        if key not in self._stuck:
            self._storage.update(PODS, {**pod, "status": pod_status.waiting(pod, "ContainerCreating")})
        self._stuck[key] = False
        if key not in self._to_start:
            self._to_start.append(key)

    def _lack_image(self, pod: Json, key: tuple[str, str], container: Json) -> None:
        image = container["image"]
        if container["imagePullPolicy"] == "Never":
            reason, why = "ErrImageNeverPull", f'Container image "{image}" is not present with pull policy of Never'
            self._wait(pod, key, reason, why)
            return
        why = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
        first, again = key not in self._stuck, self._stuck.get(key, False)
        if first:
            pod = self._storage.update(PODS, {**pod, "status": pod_status.waiting(pod, "ContainerCreating")})
            self._recorder.say(pod, "Normal", "Pulling", f'Pulling image "{image}"', "kubelet")
            self._recorder.say(pod, "Warning", "Failed", f'Failed to pull image "{image}": {why}', "kubelet")
            self._wait(pod, key, "ErrImagePull", why)
            self._stuck[key] = True  # the next look says that it backs off
        elif again:
            self._recorder.say(pod, "Normal", "BackOff", f'Back-off pulling image "{image}"', "kubelet")
            self._wait(pod, key, "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {why}')

    def _wait(self, pod: Json, key: tuple[str, str], reason: str, message: str) -> None:
        self._stuck[key] = False
        status = pod_status.waiting(pod, reason, message)
        if status != pod["status"]:
            self._storage.update(PODS, {**pod, "status": status})
            said = message if reason == "CreateContainerConfigError" else reason
            self._recorder.say(pod, "Warning", "Failed", f"Error: {said}", "kubelet")

    def _start(self, pod: Json) -> None:
        meta, spec = pod["metadata"], pod["spec"]["containers"][0]
        key = (meta["namespace"], meta["name"])
        try:
            env = environment.environment_of(self._storage, pod, spec, self.host_env)
        except environment.ConfigurationError as error:
            self._wait(pod, key, "CreateContainerConfigError", str(error))
            return
        argv = environment.command_of(spec, env, self.entrypoint)
        if self.on_command is None and shutil.which(argv[0], path=env.get("PATH")) is None:
            self._stuck.pop(key, None)
            self._end(pod, 128, "StartError", _start_error(argv[0]))
            return
        folder = self._folder / f"{key[0]}_{key[1]}_{meta['uid']}"
        ours = str(folder / "termination-log")
        path = spec["terminationMessagePath"]
        env = {name: ours if value == path else value for name, value in env.items()}
        argv = [ours if word == path else word for word in argv]

        def ended(code: int, reason: str) -> None:
            with self._storage.changed:
                self._ended.append((*key, meta["uid"], code, reason))
                self._storage.changed.notify_all()

        container = Container(argv, env, folder, self.on_command, ended)
        self.containers[meta["uid"]] = container
        self._running.add(meta["uid"])
        self._stuck.pop(key, None)
        self._storage.update(PODS, {**pod, "status": pod_status.running(pod)})
        self._recorder.say(pod, "Normal", "Started", "Container started", "kubelet")
        container.start()

    def _terminate(self, pod: Json) -> None:
        meta = pod["metadata"]
        if meta["uid"] in self._running:
            what = f"Stopping container {pod['spec']['containers'][0]['name']}"
            self._recorder.say(pod, "Normal", "Killing", what, "kubelet")
            self.containers[meta["uid"]].stop(float(meta.get("deletionGracePeriodSeconds") or 0))
        else:
            self._storage.update(PODS, {**pod, "status": pod_status.never_ran(pod)})

    def _finish(self, namespace: str, name: str, uid: str, code: int, reason: str) -> None:
        self._running.discard(uid)
        pod = self._storage.find(PODS, namespace, name)
        if pod is None or pod["metadata"]["uid"] != uid or _is_final(pod):
            return
        message = _start_error(self._program(pod)) if reason == "StartError" else self._message(pod, code)
        self._end(pod, code, reason, message)

    def _end(self, pod: Json, code: int, reason: str, message: str) -> None:
        self._release(pod["metadata"]["uid"])
        pod = self._storage.update(PODS, {**pod, "status": pod_status.terminated(pod, code, reason, message)})
        self._storage.update(PODS, {**pod, "status": pod_status.ended(pod)})

    def _program(self, pod: Json) -> str:
        return str((pod["spec"]["containers"][0].get("command") or self.entrypoint)[0])

    def _message(self, pod: Json, code: int) -> str:
        """What the container left in its termination log, or the end of its log."""
        spec, container = pod["spec"]["containers"][0], self.containers[pod["metadata"]["uid"]]
        if container.termination_log.exists():
            said = container.termination_log.read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
            if said:
                return said
        if code and spec["terminationMessagePolicy"] == "FallbackToLogsOnError":
            lines = b"".join(line for _, line in container.log.lines()[-TAIL_LINES:])
            return lines[-TAIL_BYTES:].decode(errors="replace")
        return ""

    def _release(self, uid: str) -> None:
        if self._allocation.release(uid):
            for key in self._unplaced:
                self.queue.add(key)


def _start_error(program: str) -> str:
    why = f"stat {program}: no such file or directory" if "/" in program else "executable file not found in $PATH"
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        f'unable to start container process: exec: "{program}": {why}: unknown'
    )


def _is_final(pod: Json) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")
