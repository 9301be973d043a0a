"""What a stage's process took, and with what it worked: for its result.json."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from importlib import metadata
from typing import Any

REPORTED_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "llama-index-core", "pymupdf", "numpy")


def usage_since(started_s: float) -> dict[str, Any]:
    """Seconds on the clock and on the CPU, peak memory, versions, and the image where RADIT_IMAGE names one."""
    ended_s = time.time()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    kib_per_unit = 1 / 1024 if sys.platform == "darwin" else 1  # macOS counts bytes, Linux KiB
    image = os.environ.get("RADIT_IMAGE")
    return {
        "seconds": round(ended_s - started_s, 3),
        "cpu_seconds": round(sum(part.ru_utime + part.ru_stime for part in usage), 3),
        "peak_memory_gib": round(max(part.ru_maxrss for part in usage) * kib_per_unit / (1 << 20), 3),
        "versions": _versions(),
        **({"image": image} if image else {}),
        "started_s": round(started_s, 3),
        "ended_s": round(ended_s, 3),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ended_s)),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "radit-job": metadata.version("radit-job")}
    for package in REPORTED_PACKAGES:
        if package.replace("-", "_") in sys.modules or package in sys.modules:
            found[package] = metadata.version(package)
    return found
