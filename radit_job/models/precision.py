"""Which number format pays on this machine: measured, not assumed.

bfloat16 without matrix units is several times slower than float32 (8 times on a Zen 3), and more than three times
faster with them (AMX, Tensor Cores).
"""

from __future__ import annotations

import time
from functools import cache

import torch

from radit_job.errors import ConfigError

PROBE_SIZE = 512  # rows and columns: large enough for the matrix units, a few milliseconds each
PROBE_REPEATS = 5
NEEDED_GAIN = 1.5  # below it the lost digits are not worth it


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(requested: str) -> torch.dtype:
    """The torch dtype for `auto`, `float32` or `bfloat16` on this machine's device."""
    match requested:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            return torch.bfloat16 if bfloat16_pays(device().type) else torch.float32
    raise ConfigError(f"unknown dtype {requested!r}", todo="use auto, float32 or bfloat16")


@cache
def bfloat16_pays(kind: str) -> bool:
    """Whether bfloat16 matrix products are at least 1.5 times as fast as float32 ones; asked once per process."""
    if kind == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)  # Ampere: the first Tensor Cores with bfloat16
    return _product_s(torch.float32) >= NEEDED_GAIN * _product_s(torch.bfloat16)


def _product_s(dtype: torch.dtype) -> float:
    """Seconds of one matrix product, the fastest of a few."""
    matrix = torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype)
    seconds = []
    for _ in range(PROBE_REPEATS + 1):  # the first one warms up
        start_s = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start_s)
    return min(seconds[1:])
