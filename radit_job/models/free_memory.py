"""How much memory is left where a model computes."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")  # a container's own limit, https://docs.kernel.org/admin-guide/cgroup-v2.html


def free_bytes(device: torch.device, cgroup: Path = CGROUP) -> int:
    """What may still be allocated: on the GPU, or in this container or machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, _left_in_cgroup(cgroup))


def _left_in_cgroup(cgroup: Path) -> int:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except OSError:  # no limit, or cgroup v1
        return sys.maxsize
    # Cached files count as used, and are dropped when memory is asked for.
    return sys.maxsize if limit == "max" else int(limit) - used + int(counts.get("inactive_file", 0))
