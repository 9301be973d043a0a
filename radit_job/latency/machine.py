"""What this machine can do at most, measured in this process: memory bandwidth and matrix products."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from radit_job import observe
from radit_job.latency.floor import Floor, Machine, ModelSize, Work, floor, shared_tokens
from radit_job.latency.rounds import Group
from radit_job.models.huggingface import HuggingFaceLM

MOST_READ_BYTES = 1 << 30  # several times the last cache of a large CPU, and of any GPU
LEAST_READ_BYTES = 1 << 20
ROW = 4096  # numbers
SIZES = (1024, 2048, 4096, 8192)  # rows and columns of the matrices
LONG_PRODUCT_S = 0.02  # all of a machine's units are at work by then: larger matrices bring nothing more
REPEATS = 4  # of each; the fastest counts, for a floor is what the machine can do when nothing disturbs it


def measure(dtype: torch.dtype, device: torch.device, weight_bytes: int) -> Machine:
    """Read a tensor as large as the weights and multiply matrices, with the process's own threads; a second or two.

    A tensor of 1 GiB stands for anything larger. Weights that fit into a cache are read faster than memory is: their
    floor is that of the cache.
    """
    n_rows = min(MOST_READ_BYTES, max(LEAST_READ_BYTES, weight_bytes)) // 4 // ROW
    numbers = torch.ones(n_rows, ROW, dtype=torch.float32, device=device)
    vector = torch.ones(ROW, device=device)
    read_s = min(_seconds(numbers.sum, device), _seconds(partial(torch.mv, numbers, vector), device))
    return Machine(numbers.nbytes / read_s, _flop_per_s(dtype, device))


def _flop_per_s(dtype: torch.dtype, device: torch.device) -> float:
    fastest = 0.0
    for size in SIZES:
        square = torch.ones(size, size, dtype=dtype, device=device)
        product_s = _seconds(partial(torch.mm, square, square), device)
        fastest = max(fastest, 2 * size**3 / product_s)
        if product_s > LONG_PRODUCT_S:
            break
    return fastest


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The fastest of a few times, after one that does not count."""
    seconds = []
    for _ in range(REPEATS + 1):
        start_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start_s)
    return min(seconds[1:])


def device_name(device: torch.device) -> str:
    """`AMD EPYC 7763, 2 threads`, or the GPU's name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    n = torch.get_num_threads()
    return f"{_cpu_name()}, {n} thread{'s' if n > 1 else ''}"


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8", errors="replace").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def size_of(model: Any) -> ModelSize | None:
    """The sizes of a causal language model; None for a mixture of experts, of which a token uses only some."""
    config = model.config.get_text_config()
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        return None
    n_heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    n_all = sum(weight.numel() for weight in model.parameters())  # a shared table counts once
    n_tables = table.numel() + (0 if head is table else head.numel())
    n_layers, n_bytes = config.num_hidden_layers, head.element_size()
    return ModelSize(
        n_body=n_all - n_tables,
        n_head=head.numel(),
        bytes_per_weight=n_bytes,
        kv_bytes_per_token=2 * n_layers * n_kv_heads * head_width * n_bytes,
        attention_width=n_layers * n_heads * head_width,
    )


class Limits:
    """What this machine allows one model; measured before and after the rounds, and the better one counts."""

    def __init__(self, lm: HuggingFaceLM) -> None:
        self._lm = lm
        self._size = size_of(lm.model)
        self._machine = Machine(0.0, 0.0)
        self.measure()

    def measure(self) -> None:
        """Measure once more: another process may have disturbed what was measured so far."""
        model = self._lm.model
        with observe.progress("measuring the machine", total=1, unit="times") as bar:
            found = measure(model.dtype, model.device, sum(weight.nbytes for weight in model.parameters()))
            bar.advance()
        self._machine = Machine(
            max(found.bytes_per_s, self._machine.bytes_per_s), max(found.flop_per_s, self._machine.flop_per_s)
        )

    def floor_of(self, group: Group) -> Floor | None:
        """The floor of what came at the same moment; None where the model's sizes tell none, or nothing was written."""
        calls = [call for timed in group.timed for call in timed.calls]
        if self._size is None or not calls:
            return None
        shared = shared_tokens([self._lm.chat.text_ids(call.prompt) for call in calls])
        work = Work([call.n_prompt_tokens for call in calls], [call.n_completion_tokens for call in calls], shared)
        return floor(self._size, self._machine, work)

    def to_json(self) -> dict[str, Any]:
        """As latency.json has it."""
        return {
            "device": device_name(self._lm.model.device),
            "bandwidth_gb_per_s": self._machine.bytes_per_s / 1e9,
            "matrix_gflop_per_s": self._machine.flop_per_s / 1e9,
            "dtype": str(self._lm.model.dtype).removeprefix("torch."),
        }
