"""How machines that train together meet, and part: launchers of this process, without any training."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _RendezvousJoinOp

from radit_job.errors import Terminated, TryAgainError
from radit_job.observe.events import send_events_to
from radit_job.training import launching, meeting
from radit_job.training.launching import _events_shown, _launch
from radit_job.training.meeting import Machines, join_meeting, meeting_place


@pytest.fixture
def machines() -> Machines:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Machines(0, 2, f"127.0.0.1:{probe.getsockname()[1]}")


def listens(machines: Machines) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(machines.endpoint.rpartition(":")[2])), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_machine_that_leaves_leaves_the_meeting_open_for_its_replacement(machines: Machines) -> None:
    with meeting_place(machines) as port:
        first, second = join_meeting(machines, port, "127.0.0.1"), join_meeting(machines, port, "127.0.0.1")
        waiting = threading.Thread(target=second.next_rendezvous, daemon=True)
        waiting.start()
        first.next_rendezvous()
        waiting.join(20)
        second.shutdown()
        assert second.has_met and not first.is_closed()
        third = join_meeting(replace(machines, index=1), 0, "127.0.0.1")
        assert not third.is_closed() and not third.has_met
        first.shutdown()
    assert not listens(machines), "who comes now waits for the next first machine"


def test_a_machine_told_to_stop_while_it_waits_for_the_others_ends_as_told(machines: Machines, tmp_path: Path) -> None:
    def end(number: int, frame: object) -> None:
        raise Terminated("terminated")

    def tell() -> None:
        until_s = time.monotonic() + 20
        while not listens(machines) and time.monotonic() < until_s:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        threading.Thread(target=tell, daemon=True).start()
        with pytest.raises(Terminated):
            _launch(machines, tmp_path)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_machine_that_comes_when_all_is_committed_has_nothing_to_do(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it finds nobody, or a first one that is about to end."""
    monkeypatch.setattr(meeting, "POLL_S", 0.02)
    monkeypatch.setattr(launching, "POLL_S", 0.02)
    answers = iter([False, False, True])
    _launch(replace(machines, index=1, is_over=lambda: next(answers)), tmp_path)
    assert next(answers, None) is None
    dying = socket.create_server(("127.0.0.1", int(machines.endpoint.rpartition(":")[2])))

    def hang_up() -> None:
        while True:
            dying.accept()[0].close()

    threading.Thread(target=hang_up, daemon=True).start()
    monkeypatch.setattr(meeting, "ANSWER", meeting.timedelta(seconds=1))
    answers = iter([False, True])
    _launch(replace(machines, index=1, is_over=lambda: next(answers)), tmp_path)
    assert next(answers, None) is None


def test_a_machine_that_loses_the_first_while_ranks_are_given_tries_again(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one came to the meeting and was lost at once: it never answers."""
    monkeypatch.setattr(meeting, "ANSWER", meeting.timedelta(seconds=1))

    def come() -> None:
        until_s = time.monotonic() + 20
        while not listens(machines) and time.monotonic() < until_s:
            time.sleep(0.02)
        other = join_meeting(replace(machines, index=1), 0, "127.0.0.0")  # the lowest address is the first rank
        other._op_executor.run(_RendezvousJoinOp(), time.monotonic() + 20)

    threading.Thread(target=come, daemon=True).start()
    with pytest.raises(TryAgainError, match="have lost one another"):
        _launch(machines, tmp_path)


def test_a_reader_that_cannot_show_an_event_goes_on_reading(tmp_path: Path) -> None:
    """Otherwise the training process would wait for ever as soon as the pipe is full."""
    shown = []

    def show(event: dict[str, object]) -> None:
        if event.get("n") == 1:
            raise RuntimeError("cannot be shown")
        shown.append(event["n"])

    send_events_to(show)
    try:
        with _events_shown(tmp_path / "events"), (tmp_path / "events").open("wb") as pipe:
            pipe.write(b'{"event": "log", "n": 1}\n{"ev{"event": "log"}\n7\n{"n": 2}\n')
            for _ in range(20_000):  # more than a pipe holds
                pipe.write(b'{"event": "log", "n": 3}\n')
    finally:
        send_events_to(lambda event: None)
    assert shown == [3] * 20_000
