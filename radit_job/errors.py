"""The exception tree. The exit code stands on the class; the command line only prints and exits.

RaditError (1)
|-- StageFailed (1)        a stage's process ended without committing its artifact
|-- ConfigError (64)       the configuration or the command line is wrong
|-- InputError (65)        a document, a question file or a model folder cannot be used
|-- ServiceError (69)      something outside did not answer
|   `-- StoreError (69)    the store cannot be read or written
|       `-- CorruptArtifact (69)   what is stored is not what was committed
|-- TryAgainError (75)     nothing is wrong, but not now: another run holds the lock
`-- Interrupted (130)      the user asked to stop, with Ctrl-C
    `-- Terminated (143)   the system asked to stop, with SIGTERM
"""

from __future__ import annotations

from typing import Any, ClassVar


class RaditError(Exception):
    """One short message: what is wrong, where it is (file, line, field), and what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.todo = todo

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.todo:
            parts.append(self.todo)
        return "\n  ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The error as a worker's last event carries it to the controller."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "todo": self.todo,
            "exit_code": self.exit_code,
        }


class StageFailed(RaditError):
    """A stage's process ended without committing its artifact."""


class ConfigError(RaditError):
    """The configuration or the command line is wrong."""

    exit_code = 64


class InputError(RaditError):
    """A document, a question file or a model folder cannot be used as it is."""

    exit_code = 65


class ServiceError(RaditError):
    """Something outside this process did not answer as it should."""

    exit_code = 69


class StoreError(ServiceError):
    """The store cannot be read or written."""


class CorruptArtifact(StoreError):
    """What is stored under an artifact's key is not what was committed there."""


class TryAgainError(RaditError):
    """Nothing is wrong, but it cannot be done now."""

    exit_code = 75


class Interrupted(RaditError):
    """The user asked to stop, with Ctrl-C."""

    exit_code = 130


class Terminated(Interrupted):
    """The system asked to stop, with SIGTERM."""

    exit_code = 143


def error_from_json(plain: dict[str, Any]) -> RaditError:
    """The inverse of `RaditError.to_json`: a stage's error, as the controller raises it again."""
    kinds = {kind.__name__: kind for kind in _all_kinds(RaditError)}
    kind = kinds.get(str(plain.get("type")), StageFailed)
    return kind(str(plain.get("what")), where=plain.get("where"), todo=plain.get("todo"))


def _all_kinds(kind: type[RaditError]) -> list[type[RaditError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _all_kinds(child))]
