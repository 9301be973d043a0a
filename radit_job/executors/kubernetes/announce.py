"""Kubernetes events on the controller's own Job: `kubectl describe job` tells how the run went."""

from __future__ import annotations

import os
import time
import uuid

from radit_job import observe
from radit_job.errors import RaditError
from radit_job.executors.kubernetes.client import KubernetesClient

PATIENCE_S = 10.0  # nothing waits for an event
MAX_MESSAGE = 1_000  # characters; the API server's limit is 1,024 bytes


class Announcer:
    """Creates events on the Job in which this controller runs; does nothing where it runs in none."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._job = os.environ.get("RADIT_CONTROLLER_JOB", "")
        self._uid = os.environ.get("RADIT_CONTROLLER_JOB_UID", "")

    def tell(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        """Create one event. Failing to is said, and has no other consequence."""
        if not self._job or not self._uid:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        namespace = self._client.namespace
        about = {"apiVersion": "batch/v1", "kind": "Job", "name": self._job, "namespace": namespace, "uid": self._uid}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{self._job[:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "involvedObject": about,
            "type": "Warning" if is_warning else "Normal",
            "reason": reason,
            "message": message.encode()[:MAX_MESSAGE].decode(errors="ignore"),
            "source": {"component": "radit-job"},
            "reportingComponent": "radit-job",
            "reportingInstance": os.environ.get("HOSTNAME", ""),
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._client.create("events", event, patience_s=PATIENCE_S)
        except RaditError as error:
            observe.warn(f"the event {reason} could not be created: {error.what}")
