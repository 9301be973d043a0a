"""Jobs to try the Kubernetes server with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def job(name: str, command: list[str], *, container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A Job of one container."""
    template = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        **spec.pop("pod", {}),
        "containers": [{"name": "main", "image": "image", "command": command, **(container or {})}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": template}, **spec},
    }


def until(is_so: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Poll until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.005)
