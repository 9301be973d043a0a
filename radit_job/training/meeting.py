"""Where machines that train together meet: a key-value server on the first one, as long as that one trains.

torch's dynamic rendezvous (torch/distributed/elastic/rendezvous/dynamic_rendezvous.py), with one difference: nobody
closes it for all. A machine that fails leaves, and the others wait for its replacement; when the first one ends, the
server ends with it, and the others see that.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousInfo
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from radit_job import observe
from radit_job.errors import TryAgainError

MEETING_S = 900  # until all machines must have come, the first time and after each loss
POLL_S = 1.0
MAX_CONNECT_S = 10.0
ANSWER = timedelta(seconds=60)  # of the server
RUN_ID = "radit"  # the endpoint serves one run alone


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Machines:
    """Which machine of those that train together it is, and how many processes each has."""

    index: int = 0
    count: int = 1
    endpoint: str = ""  # host:port on the first one, where there are several
    n_processes: int = 1  # on each
    is_over: Callable[[], bool] = _never  # whether the others have done it all meanwhile


class Meeting(DynamicRendezvousHandler):
    """One machine's part in it."""

    has_met = False

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for all others, and note that they came."""
        info = super().next_rendezvous()
        self.has_met = True
        return info

    def shutdown(self) -> bool:
        """Leave it to the others: without heartbeats this machine is soon no longer one of them."""
        self._stop_heartbeats()
        return True


def join_meeting(machines: Machines, port: int, own_address: str) -> Meeting:
    """`port`: of the server where it is on this machine, else 0. RendezvousError or DistError if it does not answer."""
    host = "localhost"
    if not port:
        host, port = _host_and_port(machines.endpoint)
    store = TCPStore(host, port, is_master=False, timeout=ANSWER, wait_for_workers=False)
    made = Meeting.from_backend(
        RUN_ID,
        store,
        C10dRendezvousBackend(store, RUN_ID),
        machines.count,
        machines.count,
        own_address,
        RendezvousTimeout(join=timedelta(seconds=MEETING_S)),
    )
    assert isinstance(made, Meeting)  # noqa: S101  # its own class method makes it
    return made


@contextmanager
def meeting_place(machines: Machines) -> Iterator[int]:
    """Serve it on the first machine; its port there, else 0. DistError if it cannot be had."""
    if machines.index > 0:
        yield 0
        return
    port = _host_and_port(machines.endpoint)[1] if machines.count > 1 else 0
    server = TCPStore("localhost", port, is_master=True, timeout=ANSWER, wait_for_workers=False)
    try:
        yield int(server.port)
    finally:
        del server  # the only reference: it listens no longer, and who comes then waits for the next one


def await_first(machines: Machines) -> str:
    """By which address the other machines reach this one: that from which it reaches the first; "" if all is over.

    Waits until the first machine's name is known and, on the others, until it listens; TryAgainError if not in time.
    """
    if machines.count == 1:
        return "127.0.0.1"
    host, port = _host_and_port(machines.endpoint)
    kind = socket.SOCK_STREAM if machines.index > 0 else socket.SOCK_DGRAM  # connecting the latter sends nothing
    deadline_s = time.monotonic() + MEETING_S
    said = False
    while not machines.is_over():
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
            with socket.socket(family, kind) as probe:
                probe.settimeout(MAX_CONNECT_S)
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError as error:
            if time.monotonic() >= deadline_s:
                what = f"the first of the machines that train together did not come within {MEETING_S} s: {error}"
                raise TryAgainError(what, where=machines.endpoint) from error
        if not said:
            observe.log("waiting for the first of the machines that train together", endpoint=machines.endpoint)
            said = True
        time.sleep(POLL_S)
    return ""


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)
