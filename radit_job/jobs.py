"""What travels between the controller, an executor and a stage's process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

SPEC_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Resources:
    """What a stage's process asks for."""

    memory_gib: float
    is_heavy: bool = False  # wants all cores of its machine
    loads_models: bool = False  # imports the libraries for them


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """One artifact of a committed stage, pinned by content."""

    artifact: str
    stage: str
    key: str
    digest: str  # over the artifact's files: path, size and sha256


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a stage's blocks one process does. The blocks do not depend on how many processes share them."""

    index: int = 0
    count: int = 1

    def takes(self, block: int) -> bool:
        """Whether the block with this number is this process's."""
        return block % self.count == self.index


WHOLE = Shard()  # one process does it all


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """The machines that do one stage together, and which of them this process is on. The first one publishes."""

    index: int = 0
    count: int = 1
    endpoint: str = ""  # host:port where they meet, on the first one; empty where there is only one
    # Whether the first one has published: one that is lost and comes back may find nobody to meet.
    is_over: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that publishes."""
        return self.index == 0


ALONE = NodeGroup()  # one machine, whatever the number of its processes


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything that one stage's process needs to know; the store keeps it as JSON with the run."""

    run: str
    stage: str
    stage_version: int
    key: str
    config: dict[str, Any]  # the stage's slice, as plain values
    inputs: tuple[ArtifactRef, ...]
    lineage: tuple[tuple[str, str], ...] = ()  # (stage, key) of every stage behind this one; empty unless it wants it
    resources: Resources = field(default_factory=lambda: Resources(1.0))
    shards: int = 1  # pods that share the work; each finds its number in JOB_COMPLETION_INDEX
    nodes: int = 1  # pods that train together; the number, too, and RADIT_ENDPOINT tells where they meet
    replace: bool = False  # take the place of what is committed under the key: it is damaged, or the user forces it
    budget_usd: float | None = None  # what calls to paid services may cost, all shards together; None: no limit
    prices: dict[str, dict[str, Any]] = field(default_factory=dict)  # by model name: config.services.Price
    format: int = SPEC_FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> JobSpec:
        """The inverse of `to_json`."""
        return cls(
            **{
                **plain,
                "inputs": tuple(ArtifactRef(**item) for item in plain["inputs"]),
                "lineage": tuple((stage, key) for stage, key in plain["lineage"]),
                "resources": Resources(**plain["resources"]),
            }
        )


class JobState(StrEnum):
    """How a stage's process ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage's process ended."""

    state: JobState
    exit_code: int | None = None
    error: dict[str, Any] | None = None  # `RaditError.to_json`, where the process could still say it
    log: str | None = None  # where its log lines are


@dataclass(frozen=True, slots=True)
class Condition:
    """How a stage that was started stands: for eyes only, nothing is decided on it."""

    phase: Literal["queued", "pending", "running"]  # held by a queue; no pod runs yet; at work
    says: str = ""  # why it waits, or how far it is
    n_shards_done: int = 0
    n_shards: int = 1
    n_retries: int = 0  # pods that failed and were started again
