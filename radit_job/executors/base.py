"""What the controller asks of whatever runs its stages."""

from __future__ import annotations

from typing import Protocol

from radit_job.jobs import Condition, JobSpec, Outcome, Resources


class Executor(Protocol):
    """Starts stages and reports how each one ended. Starting a stage that already runs adopts it."""

    @property
    def name(self) -> str:
        """`local` or `kubernetes`: what --executor takes."""
        ...

    @property
    def context(self) -> str | None:
        """Of the kubeconfig, where the stages run in a cluster."""
        ...

    @property
    def namespace(self) -> str | None:
        """Of the cluster; None on this machine."""
        ...

    @property
    def afterwards(self) -> str:
        """What becomes of the stages that run when the controller stops early, for its last message."""
        ...

    def has_room(self, resources: Resources) -> bool:
        """Whether a stage with these needs may start now."""
        ...

    def start(self, spec: JobSpec, spec_name: str) -> None:
        """Start the stage that the store describes at `spec_name`."""
        ...

    def wait(self) -> list[tuple[str, Outcome | Condition]]:
        """Block until there is news: (stage, outcome) of each that ended, (stage, condition) of each that stands anew.

        ServiceError when the cluster does not answer for longer than the executor's patience.
        """
        ...

    def stop(self) -> None:
        """Let go: processes are stopped, Jobs of a cluster go on."""
        ...
