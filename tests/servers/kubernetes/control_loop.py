"""One thread does the work of all controllers, in a fixed order."""

from __future__ import annotations

import threading
from typing import Protocol

from tests.servers.kubernetes.storage import Storage
from tests.servers.kubernetes.work_queue import WorkQueue


class Controller(Protocol):
    """Looks at what changed."""

    queue: WorkQueue

    def step(self) -> bool:
        """Do what is due; whether there was anything."""
        ...


class ControlLoop:
    """Lets the controllers work while it runs; what they raise is in `errors`."""

    def __init__(self, storage: Storage, controllers: tuple[Controller, ...], errors: list[BaseException]) -> None:
        self._storage, self._controllers, self._errors = storage, controllers, errors
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Go on with what is due."""
        self._running = True
        self._thread = threading.Thread(target=self._run, name="kubernetes controllers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stand still."""
        with self._storage.changed:
            self._running = False
            self._storage.changed.notify_all()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        try:
            while self._running:
                with self._storage.changed:
                    worked = [controller.step() for controller in self._controllers]
                    if not any(worked) and self._running:
                        waits = [wait_s for one in self._controllers if (wait_s := one.queue.next_s()) is not None]
                        self._storage.changed.wait(min(waits, default=None))
        except Exception as error:
            self._errors.append(error)
