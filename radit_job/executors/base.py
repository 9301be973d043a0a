"""What the controller asks of whatever runs its stages."""

from __future__ import annotations

from typing import Protocol

from radit_job.jobs import JobSpec, Outcome, Resources


class Executor(Protocol):
    """Starts stages and reports how each one ended. Starting a stage that already runs adopts it."""

    def has_room(self, resources: Resources) -> bool:
        """Whether a stage with these needs may start now."""
        ...

    def start(self, spec: JobSpec, spec_name: str) -> None:
        """Start the stage that the store describes at `spec_name`."""
        ...

    def wait(self) -> list[tuple[str, Outcome]]:
        """Block until at least one started stage has ended; (stage, outcome) of each that has."""
        ...

    def stop(self) -> None:
        """Stop what runs, and return when it has stopped."""
        ...
