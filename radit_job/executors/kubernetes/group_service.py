"""The Service of a Job whose pods must find each other: made after the Job, by whoever made or adopted that."""

from __future__ import annotations

import math
import time

from radit_job.executors.kubernetes.answers import AlreadyExists, QuotaFull
from radit_job.executors.kubernetes.client import KubernetesClient, Object
from radit_job.executors.kubernetes.node_group import is_of_another, service_of

GONE_S = 2.0  # between looks at an earlier Job's Service, which the cluster is about to collect
QUOTA_S = 5.0  # between tries to create one for which the quota has no room


class GroupService:
    """What is left to do for one Job's Service; nothing where its pods need none."""

    def __init__(self, client: KubernetesClient, job: Object) -> None:
        self._client = client
        self._job = job
        self._manifest = service_of(job)
        self.due_s = math.inf if self._manifest is None else 0.0  # monotonic time of the next look; inf: it is there

    def advance(self) -> None:
        """Create it if it is time; ApiError or ConfigError where that is refused."""
        if self._manifest is None or time.monotonic() < self.due_s:
            return
        self.due_s = math.inf
        try:
            self._client.create("services", self._manifest)
        except AlreadyExists:
            there = self._client.get("services", self._manifest["metadata"]["name"])
            if there is None or is_of_another(there, self._job):
                self.due_s = time.monotonic() + GONE_S
        except QuotaFull:
            self.due_s = time.monotonic() + QUOTA_S
