"""The processes that train together, and the little that they tell each other beside gradients."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch._C._distributed_c10d import TCPStore

PEER_TIMEOUT = timedelta(minutes=30)  # the first process may be saving a large model; a lost peer shows by itself


@dataclass(frozen=True, slots=True)
class World:
    """Who this process is among `size` that do the same steps; each call must be made by all of them."""

    rank: int = 0
    size: int = 1
    n_nodes: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one reports, keeps the history and writes the model."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every process, by rank; all get the same, to the bit."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.size == 1:
            return [own.tolist()]
        rows = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(rows, own)
        return [row.tolist() for row in rows]

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        return value if self.size == 1 else sum(row[0] for row in self.gather([value]))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else any(row[0] for row in self.gather([float(flag)]))

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Fill the tensor with the first process's values."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)

    def broadcast_json(self, value: Any) -> Any:
        """The first process's value, a plain one."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        n_bytes = torch.tensor([len(data)])
        self.broadcast(n_bytes)
        if not self.is_first:
            data = torch.empty(int(n_bytes), dtype=torch.uint8)
        self.broadcast(data)
        return json.loads(bytes(data.tolist()))

    def wait(self) -> None:
        """Until all have come here."""
        self.gather([0.0])


ALONE = World()


def join_world(rank: int, n_nodes: int) -> World:
    """Meet the other processes of an elastic launch; `rank` is this one's own number among them.

    The launcher numbers nodes anew in each round, but a checkpoint's shard and the place where the model is written
    belong to a machine: so its numbers only tell who keeps the address book (environment: MASTER_ADDR and its like,
    https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables).
    """
    size, local_rank = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size=size,
        is_master=os.environ["RANK"] == "0",
        timeout=PEER_TIMEOUT,
        wait_for_workers=False,
    )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PEER_TIMEOUT)
    return World(rank, size, n_nodes)


def is_lost_peer(error: BaseException) -> bool:
    """Whether it only says that another process is gone: what that one failed of is the cause.

    Gloo has no error class of its own; its messages begin with its source file. NCCL's tell a fault of this process's
    own GPU by its result code (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api/types.html#ncclresult-t).
    """
    if isinstance(error, distributed.DistError):
        return not re.search("ncclUnhandledCudaError|ncclInvalid", str(error))
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def leave_world(world: World) -> None:
    """To be called by all at the end."""
    world.wait()
    distributed.destroy_process_group()
