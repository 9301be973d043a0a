"""LoRA's arithmetic for a CPU: PEFT's adapters and format, with fewer passes over memory.

PEFT computes x W^T + s (x A^T) B^T as three products, a scaling and an addition of whole activations, and autograd
keeps what each needs. Here W' = W + s B A is formed once per optimizer step (the cost of r tokens), so that the forward
pass is the one product x W'^T, and the backward pass writes its gradients out (dy is the gradient of the output):

    dx = dy W'      dA = s (dy B)^T x      dB = s dy^T (x A^T)

It is for float32 weights only: in bfloat16, W' would round the adapter away. `benchmarks/finetune_lm.py` measures the
gain.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear


def use_merged_products(model: torch.nn.Module) -> list[MergedProduct]:
    """Let the LoRA layers of a PEFT model compute by merged products where that is exact; returns those that do.

    Each must be refreshed after every change of the adapters.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLinear) and _is_plain(module)]
    merged = [MergedProduct(layer) for layer in layers]
    for layer, product in zip(layers, merged, strict=True):
        layer.forward = product
    return merged


def _is_plain(layer: Any) -> bool:
    """Whether it is float32 on a CPU with one adapter and no dropout, DoRA or the like."""
    weight = layer.get_base_layer().weight
    adapters = layer.active_adapters
    return (
        len(adapters) == 1
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and isinstance(layer.lora_dropout[adapters[0]], torch.nn.Identity)
        and not layer.lora_variant
        and not layer.fan_in_fan_out
    )


class MergedProduct:
    """One LoRA layer's forward by W' = W + s B A."""

    def __init__(self, layer: Any) -> None:
        (adapter,) = layer.active_adapters
        self.linear = layer.get_base_layer()  # its weight W is [out, in]
        self.a = layer.lora_A[adapter].weight  # [rank, in]
        self.b = layer.lora_B[adapter].weight  # [out, rank]
        self.scaling = layer.scaling[adapter]
        self.refresh()

    def refresh(self) -> None:
        """Form W' anew; torch's version counters do not tell when, for a fused optimizer leaves them as they are."""
        with torch.no_grad():
            self.merged = torch.addmm(self.linear.weight, self.b, self.a, alpha=self.scaling)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output for x: [..., in] to [..., out], as PEFT's own forward gives it."""
        out: torch.Tensor = _LowRankProduct.apply(x, self.merged, self.a, self.b, self.scaling)
        return out if self.linear.bias is None else out + self.linear.bias


class _LowRankProduct(torch.autograd.Function):
    """x W'^T with the gradients of x, A and B; see the module's formulas. x is [..., in], W' is [out, in]."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, merged: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        ctx.save_for_backward(x, merged, a, b)
        ctx.scaling = scaling
        return x @ merged.t()

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        rows_x, rows_dy = x.flatten(0, -2), dy.flatten(0, -2)  # [tokens, in], [tokens, out]
        da = ((rows_dy @ b).t() @ rows_x).mul_(ctx.scaling)
        db = (rows_dy.t() @ (rows_x @ a.t())).mul_(ctx.scaling)
        dx = dy @ merged if ctx.needs_input_grad[0] else None  # the first layer's input is the frozen embedding
        return dx, None, da, db, None
