"""What a stage's pods print, as events: followed while they run, read once they have ended."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from radit_job.executors.kubernetes.answers import ApiError, Stopped
from radit_job.executors.kubernetes.client import KubernetesClient, Object
from radit_job.executors.kubernetes.manifest import job_name
from radit_job.executors.kubernetes.node_group import JOB_NAME_LABEL, node_of
from radit_job.executors.kubernetes.transport import Stopper
from radit_job.executors.kubernetes.view import has_ended, is_over, shard_of
from radit_job.executors.kubernetes.watch import Change, Reflector
from radit_job.executors.log_lines import parse_line

TAIL_LINES = 2_000  # what is kept of a log, and what is shown of its past
RESUME_PAUSE_S = 1.0  # before a log that broke off is asked for again
N_STREAMS = 16  # pods whose logs are followed at once

Event = dict[str, Any]


def follow_lines(
    client: KubernetesClient, pod: str, has_ended: Callable[[], bool], stopper: Stopper, tail_lines: int | None = None
) -> Iterator[bytes]:
    """A pod's lines until it has ended, each once, however often the connection drops.

    `has_ended` is asked before each connection. An API server that is away is waited for.
    """
    last, told = b"", set[bytes]()  # the newest time stamp, and the lines that carry it
    while True:
        ended = has_ended()
        since = (last[:19] + last[29:]).decode()  # whole seconds are all that sinceTime can say
        tail = None if last else tail_lines
        try:
            for line in client.pod_log(
                pod, follow=True, tail_lines=tail, since_time=since, timestamps=True, stopper=stopper
            ):
                stamp, _, text = line.partition(b" ")
                if stamp < last or (stamp == last and text in told):
                    continue
                if stamp != last:
                    last, told = stamp, set()
                told.add(text)
                yield text
        except ApiError as error:
            if error.status != 400:  # 400: its container waits
                return
        if ended:
            return
        stopper.wait(RESUME_PAUSE_S)


def read_lines(client: KubernetesClient, pod: str, *, patience_s: float | None = None) -> Iterator[bytes]:
    """The last lines of a pod that is not followed; nothing where it printed none or is gone."""
    try:
        yield from client.pod_log(pod, tail_lines=TAIL_LINES, patience_s=patience_s)
    except ApiError:
        return


def stage_log(
    client: KubernetesClient, store_url: str, stage: str, key: str, *, follow: bool = False
) -> Iterator[Event]:
    """What the pods of a stage's Job printed; those of a divided stage carry their `shard`, those of nodes `node`.

    With `follow` it waits for pods that have not started, and goes on until the Job ends. Where no pod is left there
    is nothing: the store may have kept the last lines.
    """
    job = job_name(stage, key, store_url)
    selector = f"{JOB_NAME_LABEL}={job}"
    if follow:
        yield from _Following(client, job, selector).events()
        return
    pods, _ = client.list("pods", selector)
    for pod in sorted(pods, key=pod_order):
        for line in read_lines(client, pod["metadata"]["name"]):
            yield labelled(parse_line(line), pod)


def labelled(event: Event, pod: Object) -> Event:
    """The event with the number of the pod's shard, if its stage is divided; or of its node, if it spans several."""
    shard, node = shard_of(pod), node_of(pod)
    if node is not None:
        return {**event, "node": node}
    return event if shard is None else {**event, "shard": shard}


def pod_order(pod: Object) -> tuple[int, str, str]:
    """By shard, then by age."""
    metadata = pod["metadata"]
    return (shard_of(pod) or 0, metadata.get("creationTimestamp") or "", metadata["name"])


class _Following:
    """All pods of one Job, followed by a thread each; the generator's end lets go of them."""

    def __init__(self, client: KubernetesClient, job: str, selector: str) -> None:
        self._client = client
        self._selector = selector
        self._stopper = Stopper()
        self._pods: dict[str, Object] = {}
        self._followed: set[str] = set()
        self._n_streams = 0
        self._news: queue.SimpleQueue[Change | Event | None] = queue.SimpleQueue()  # None: a stream has ended
        self._reflectors = [
            Reflector(client, "jobs", self._news.put, field_selector=f"metadata.name={job}"),
            Reflector(client, "pods", self._news.put, selector=selector),
        ]

    def events(self) -> Iterator[Event]:
        """See stage_log."""
        for reflector in self._reflectors:
            reflector.start()
        job: Object | None = None
        has_listed = is_done = False
        try:
            while not (is_done and self._n_streams == 0):
                news = self._news.get()
                if news is None:
                    self._n_streams -= 1
                elif not isinstance(news, Change):
                    yield news
                    continue
                elif news.kind == "BROKEN":
                    raise news.item
                elif news.resource == "pods":
                    self._see(news)
                else:
                    has_listed = has_listed or news.kind == "LISTED"
                    job = job if news.kind == "LISTED" else None if news.kind == "DELETED" else news.item
                if has_listed and not is_done and (job is None or is_over(job)):
                    is_done = True
                    for pod in self._client.list("pods", self._selector)[0]:  # the watch may not be so far
                        self._pods[pod["metadata"]["name"]] = pod
                self._start_streams()
        finally:
            self._stopper.stop()
            for reflector in self._reflectors:
                reflector.stop()

    def _see(self, change: Change) -> None:
        if change.kind in ("ADDED", "MODIFIED"):
            self._pods[change.item["metadata"]["name"]] = change.item
        elif change.kind == "DELETED":
            self._pods.pop(change.item["metadata"]["name"], None)

    def _start_streams(self) -> None:
        for name, pod in sorted(self._pods.items(), key=lambda entry: pod_order(entry[1])):
            if self._n_streams >= N_STREAMS:
                return
            if name not in self._followed and pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed"):
                self._followed.add(name)
                self._n_streams += 1
                threading.Thread(target=self._stream, args=(pod,), daemon=True, name=f"log-{name}").start()

    def _stream(self, pod: Object) -> None:
        name = pod["metadata"]["name"]

        def ended() -> bool:
            return has_ended(self._pods.get(name))

        try:
            for line in follow_lines(self._client, name, ended, self._stopper):
                self._news.put(labelled(parse_line(line), pod))
        except Stopped:
            pass
        except Exception as error:
            self._news.put(Change("pods", "BROKEN", error))
        finally:
            self._news.put(None)
