"""Progress and log lines of the pods that run, passed on as they come; and their last lines, kept in the store."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from radit_job import observe
from radit_job.errors import RaditError
from radit_job.executors.kubernetes.answers import Stopped
from radit_job.executors.kubernetes.client import KubernetesClient, Object
from radit_job.executors.kubernetes.logs import TAIL_LINES, follow_lines, labelled, pod_order, read_lines
from radit_job.executors.kubernetes.transport import Stopper
from radit_job.executors.log_lines import format_line, parse_line
from radit_job.observe.events import emit, progress_text
from radit_job.store import ObjectStore

N_FOLLOWED = 4  # pods at a time: more would be a load on the API server, and no more for the eye
MAX_LOG_BYTES = 1 << 20  # kept of a stage's log
N_PODS_KEPT = 4  # whose last lines are kept when a stage ends
READ_PATIENCE_S = 5.0  # the log is for eyes: a stage's outcome does not wait for it longer than that
PASSED_ON = ("progress", "log")


@dataclass(slots=True)
class _Followed:
    """One pod whose log is read by a thread."""

    stage: str
    pod: Object
    has_ended: bool = False
    lines: deque[bytes] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    is_read: threading.Event = field(default_factory=threading.Event)  # to its end


class Followers:
    """Follows some of the pods that run, and remembers the last lines of each."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._followed: dict[str, _Followed] = {}
        self._progress: dict[str, str] = {}  # of each stage, as last heard
        self._stopper = Stopper()

    def update(self, stage: str, pods: Iterable[Object]) -> None:
        """Follow the pods of a stage that run, as far as there is room; say which have ended."""
        n_streams = sum(not followed.is_read.is_set() for followed in self._followed.values())
        for pod in pods:
            name, phase = pod["metadata"]["name"], pod.get("status", {}).get("phase")
            followed = self._followed.get(name)
            if followed is not None:
                followed.has_ended = phase in ("Succeeded", "Failed")
            elif phase == "Running" and n_streams < N_FOLLOWED:
                n_streams += 1
                followed = self._followed[name] = _Followed(stage, pod)
                threading.Thread(target=self._follow, args=(name, followed), daemon=True, name=f"log-{name}").start()
        self._forget_shards_that_are_done(stage)

    def progress(self, stage: str) -> str:
        """How far a stage is, as one of its pods last said; empty before that."""
        return self._progress.get(stage, "")

    def take(self, stage: str) -> dict[str, tuple[Object, list[bytes]]]:
        """The stage has ended: its followed pods, with the last lines of each. They are forgotten here."""
        self._progress.pop(stage, None)
        names = [name for name, followed in self._followed.items() if followed.stage == stage]
        taken = {name: self._followed.pop(name) for name in names}
        for followed in taken.values():
            followed.has_ended = True
        return {name: (followed.pod, list(followed.lines)) for name, followed in taken.items()}

    def stop(self) -> None:
        """Let go of all logs."""
        self._stopper.stop()

    def _forget_shards_that_are_done(self, stage: str) -> None:
        """Of a stage in very many pods only the last few lines' owners are remembered."""
        mine = [name for name, followed in self._followed.items() if followed.stage == stage]
        done = [name for name in mine if self._followed[name].is_read.is_set()]
        for name in done[: -2 * N_PODS_KEPT]:
            del self._followed[name]

    def _follow(self, name: str, followed: _Followed) -> None:
        try:
            for line in follow_lines(self._client, name, lambda: followed.has_ended, self._stopper, TAIL_LINES):
                followed.lines.append(line)
                event = labelled(parse_line(line), followed.pod)
                if event["event"] == "progress" and not followed.has_ended:
                    self._progress[followed.stage] = progress_text(event)
                if event["event"] in PASSED_ON:
                    emit(**{**event, "stage": followed.stage})
        except Stopped:
            pass
        except RaditError as error:
            observe.warn(f"the log of {name} is no longer shown: {error.what}", stage=followed.stage)
        finally:
            followed.is_read.set()


def keep_log(
    client: KubernetesClient,
    store: ObjectStore,
    stage: str,
    pods: Iterable[Object],
    followed: dict[str, tuple[Object, list[bytes]]],
    name: str,
) -> bool:
    """Put the last lines of a stage's pods into the store: the failed ones first, then the youngest.

    `followed` is what Followers.take gave: it has the lines of pods that are gone. Whether there were any lines. What
    cannot be read or written is said, and otherwise ignored: it is for eyes.
    """
    known = {pod_name: pod for pod_name, (pod, _) in followed.items()}
    known.update((pod["metadata"]["name"], pod) for pod in pods)
    order = {"Failed": 0, "Running": 1, "Succeeded": 2}
    chosen = sorted(known.values(), key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
    chosen = sorted(chosen, key=lambda pod: order.get(str(pod.get("status", {}).get("phase")), 3))[:N_PODS_KEPT]
    kept: list[bytes] = []
    for pod in sorted(chosen, key=pod_order):
        pod_name = pod["metadata"]["name"]
        lines = _read(client, pod_name) or followed.get(pod_name, (pod, []))[1]
        kept += [format_line(labelled(parse_line(line), pod)) for line in lines]
    if not kept:
        return False
    try:
        store.write(name, _newest(kept, MAX_LOG_BYTES))
    except RaditError as error:
        observe.warn(f"the log is not kept: {error.what}", stage=stage)
        return False
    return True


def _read(client: KubernetesClient, pod: str) -> list[bytes]:
    try:
        return list(read_lines(client, pod, patience_s=READ_PATIENCE_S))
    except RaditError:
        return []


def _newest(lines: list[bytes], n_bytes: int) -> bytes:
    """As many of the last lines as there is room for."""
    room, first = n_bytes, len(lines)
    while first and room >= len(lines[first - 1]):
        first -= 1
        room -= len(lines[first])
    return b"".join(lines[first:])
