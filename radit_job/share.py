"""Which share of a stage one process has: all of it, a shard, or one machine's part where several train together."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass, replace

from radit_job import observe
from radit_job.errors import ConfigError, CorruptArtifact, TryAgainError
from radit_job.jobs import ALONE, WHOLE, JobSpec, NodeGroup, Shard
from radit_job.pipeline.catalog import StageRow
from radit_job.store import ObjectStore
from radit_job.store.artifacts import Manifest, find, read_result
from radit_job.store.shards import FIRST_TRY

COMMIT_PATIENCE_S = 900.0  # from the end of training to the first node's commit: it writes and uploads all weights
POLL_S = 2.0
GONE_POLLS = 3  # in a row without an answer, and the first node is gone: one may be the network


@dataclass(frozen=True, slots=True)
class Share:
    """One process's share of a stage; of `shard` and `nodes` one at most has several."""

    shard: Shard = WHOLE
    nodes: NodeGroup = ALONE

    @property
    def index(self) -> int:
        """The process's number among those of its stage."""
        return max(self.shard.index, self.nodes.index)

    @property
    def count(self) -> int:
        """How many processes do the stage."""
        return max(self.shard.count, self.nodes.count)

    @property
    def suffix(self) -> str:
        """What tells the names of this process's files and locks from the others'."""
        return f"-{self.index}-of-{self.count}" if self.count > 1 else ""

    @property
    def labels(self) -> dict[str, int]:
        """For the events."""
        if self.count == 1:
            return {}
        return {"shard": self.index} if self.shard.count > 1 else {"node": self.index}


def share_of(row: StageRow, spec: JobSpec) -> Share:
    """The share of this process, as the environment tells it; ConfigError where it does not."""
    if spec.shards == 1 and spec.nodes == 1:
        return Share()
    if spec.shards > 1 and not row.is_sharded:
        raise ConfigError(f"{row.name} cannot be divided, but its spec has {spec.shards} shards", where=row.name)
    if spec.nodes > 1 and not row.spans_nodes:
        raise ConfigError(f"{row.name} runs on one node, but its spec has {spec.nodes}", where=row.name)
    if spec.nodes > 1:
        return Share(nodes=NodeGroup(_index(spec.nodes, "nodes"), spec.nodes, _endpoint(spec.nodes)))
    return Share(Shard(_index(spec.shards, "shards"), spec.shards))


def _index(count: int, what: str) -> int:
    number = os.environ.get("JOB_COMPLETION_INDEX", "")
    if not number.isdecimal() or int(number) >= count:
        raise ConfigError(
            f"one of {count} {what} must know its number, but it is {number!r}",
            where="JOB_COMPLETION_INDEX",
            todo="Run it as an Indexed Job, or set it yourself: 0 is the first.",
        )
    return int(number)


def _endpoint(count: int) -> str:
    endpoint = os.environ.get("RADIT_ENDPOINT", "")
    if not re.fullmatch(r"[^\s:]+:[0-9]{1,5}|\[[^\s\]]+\]:[0-9]{1,5}", endpoint):
        raise ConfigError(
            f"{count} nodes must know where they meet, but it is {endpoint!r}",
            where="RADIT_ENDPOINT",
            todo="Set it to host:port of the first node, the same for all.",
        )
    return endpoint


def try_of(spec: JobSpec, share: Share, standing: Manifest | None) -> str:
    """What this try's parts and scratch are filed under, so that it reuses none of what it shall replace.

    A process alone that is told no name takes the attempt's that it replaces: killed and started again it goes on,
    until it has committed.
    """
    if not spec.replace:
        return FIRST_TRY
    name = os.environ.get("RADIT_TRY", "")
    if not name and share.count == 1:
        return standing.attempt if standing else "first"
    if not re.fullmatch(r"[A-Za-z0-9-]{1,63}", name):
        raise ConfigError(
            f"processes that replace an artifact together must know which try they belong to, but it is {name!r}",
            where="RADIT_TRY",
            todo="Set it to letters, digits and dashes, the same for all of this try, such as the Job's uid.",
        )
    return name


def standing_of(store: ObjectStore, spec: JobSpec) -> Manifest | None:
    """What is committed under the key; one that cannot be read is none where it is to be replaced."""
    try:
        return find(store, spec.stage, spec.key)
    except CorruptArtifact:
        if not spec.replace:
            raise
        return None


def is_done(store: ObjectStore, spec: JobSpec, standing: Manifest | None, nth_try: str) -> bool:
    """Whether what stands is what this try was to commit."""
    if standing is None or not spec.replace:
        return standing is not None
    return bool(read_result(store, standing).get("try") == nth_try)


def watching(store: ObjectStore, spec: JobSpec, share: Share, nth_try: str) -> NodeGroup:
    """The share's nodes for its stage, which can ask whether this try is committed: then there is nothing to help."""
    if share.nodes.is_first:
        return share.nodes
    return replace(share.nodes, is_over=lambda: is_done(store, spec, standing_of(store, spec), nth_try))


def await_commit(
    store: ObjectStore, spec: JobSpec, share: Share, nth_try: str, *, patience_s: float = COMMIT_PATIENCE_S
) -> None:
    """Wait until the first node has committed; TryAgainError where it has not in time, or has begun once more."""
    observe.log("its work is done; the first node commits")
    until_s, n_absent = time.monotonic() + patience_s, 0
    while not is_done(store, spec, standing_of(store, spec), nth_try):
        is_there = _listens(share.nodes.endpoint)
        if is_there and n_absent >= GONE_POLLS:
            raise TryAgainError("the first node was lost before it committed, and begins anew", where=spec.stage)
        n_absent = 0 if is_there else n_absent + 1
        if time.monotonic() > until_s:
            raise TryAgainError(f"the first node has not committed within {patience_s:.0f} s", where=spec.stage)
        time.sleep(POLL_S)


def _listens(endpoint: str) -> bool:
    """Whether nodes can meet there: the first one is waiting for them, or has not left."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_S).close()
    except OSError:
        return False
    return True
