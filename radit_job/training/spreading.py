"""A model spread over the processes that train it: a copy in each for adapters (DDP), a share in each for all weights
(FSDP2).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from radit_job.models import precision
from radit_job.training.world import World


def spread(model: Any, method: str, world: World) -> Any:
    """What to call for a forward pass. LoRA: the gradients of all are averaged in the backward pass.

    full: the model's parameters become shares of themselves (DTensor), decoder layer by decoder layer, and are
    gathered where they are used (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
    """
    if world.size == 1:
        return model
    if method == "lora":
        devices = [torch.cuda.current_device()] if model.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    mesh = init_device_mesh(precision.device().type, (world.size,))  # a layer is moved there as it is divided
    for layer in _decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def kind_of(method: str, world: World) -> str:
    """How it runs, in a word."""
    if world.size == 1:
        return "one process"
    return "DDP" if method == "lora" else "FSDP"


def keeping_gradients(forward: Any, *, is_last: bool) -> AbstractContextManager[Any]:
    """For the passes of a step but the last one: DDP adds gradients up at home, and exchanges them once."""
    if isinstance(forward, DistributedDataParallel) and not is_last:
        held: AbstractContextManager[Any] = forward.no_sync()
        return held
    return nullcontext()


def let_go(model: Any) -> None:
    """Drop what FSDP still holds gathered of the weights after a pass without a backward one."""
    if hasattr(model, "reshard"):
        model.reshard()


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or this process's share of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(parameter: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The inverse of `own_part` for something that is divided as the parameter is."""
    if not isinstance(parameter, DTensor):
        return own
    return DTensor.from_local(
        own, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, gathered from all where it is divided; to be called by all."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_weights(names: Mapping[torch.nn.Parameter, str], world: World) -> dict[str, torch.Tensor]:
    """All weights by name in the first process's own memory, one at a time; nothing in the others."""
    found = {}
    for parameter, name in names.items():
        full = whole(parameter.detach())
        if world.is_first:
            found[name] = full.cpu()
    return found


def _decoder_layers(model: Any) -> list[torch.nn.Module]:
    """The layers that transformers itself never splits between devices."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]
