"""Every heavy step beside what people use today, in one table: `make bench`, or `python benchmarks/table.py [--full]`.

Each step is a benchmark of its own in this folder, run here with so little work that the whole table takes less than
a quarter of an hour on two cores; --full takes the sizes for which the reaches are meant. `times` is how many times
as fast as the peer, the median of the rounds, with the lowest and the highest; `limit` the share that the step
reaches of what this machine allows, its matrix products as measured before each step, or its memory for
decoding. A step that fails is a line with the reason. growth.py is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radit_job.latency.floor import Machine, ModelSize, Work, floor

FOLDER = Path(__file__).parent
LONGEST_STEP_S = 600  # a step of the small sizes takes 1 to 3 minutes on an idle machine
SHORT = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Step:
    """One line, or two where bfloat16 pays, too."""

    name: str
    peer: str
    script: str
    small: str  # options
    full: str
    reach: dict[str, float]  # by way: how many times as fast as the peer it is meant to be
    has_threads: bool = True
    has_limit: bool = True  # the machine's own is known for it


STEPS = (
    Step(
        "answer RAG prompts",
        "LlamaIndex query engine",
        "answering.py",
        "--n 16 --rounds 2",
        "--n 64 --rounds 3",
        {"radit-job float32": 3.0, "radit-job bfloat16": 8.0},
    ),
    Step(
        "embed chunks",
        "LlamaIndex HuggingFaceEmbedding",
        "embedding.py",
        "--n 120 --rounds 2",
        "--n 2000 --rounds 3",
        {"radit-job float32": 1.3, "radit-job bfloat16": 3.0},
    ),
    Step(
        "top 10 of 100,000 for 1,000",
        "LlamaIndex SimpleVectorStore",
        "retrieval.py",
        "--repetitions 3",
        "--repetitions 5",
        {"radit-job float32": 2000.0},
        has_threads=False,
    ),
    Step(
        "PDF pages to chunks",
        "PyMuPDF + SentenceSplitter",
        "ingest.py",
        "--pages 250 --rounds 2",
        "--pages 500 --rounds 3",
        {"radit-job ingest": 2.0},
        has_limit=False,
    ),
    Step(
        "LM-ft",
        "TRL SFTTrainer, float32",
        "finetune_lm.py",
        "--steps 3 --rounds 2",
        "--steps 16 --rounds 3",
        {"radit-job float32": 1.6, "radit-job bfloat16": 3.0},
    ),
    Step(
        "LSR scores",
        "one-at-a-time forward passes",
        "lm_scores.py",
        "--n 8 --repetitions 2",
        "--n 32 --repetitions 3",
        {"radit-job float32": 1.5, "radit-job bfloat16": 4.0},
    ),
    Step(
        "quickstart, cold",
        "the notebook's steps",
        "quickstart.py",
        "--n 20 --rounds 1",
        "--n 155 --rounds 1",
        {"radit run": 2.5},
        has_limit=False,
    ),
)


def commands(step: Step, args: argparse.Namespace, bfloat16: bool) -> list[str]:
    """The step's process: it tells its rows in its last line."""
    command = [sys.executable, str(FOLDER / step.script), "--json", *(step.full if args.full else step.small).split()]
    if step.has_threads:
        command += ["--threads", str(args.threads)]
    half = bfloat16 and "radit-job bfloat16" in step.reach
    if step.script == "lm_scores.py":
        return [*command, "--bfloat16"] if half else command
    ways = {
        "answering.py": ["LlamaIndex query engine", "radit-job float32"],
        "embedding.py": ["LlamaIndex HuggingFaceEmbedding", "radit-job float32"],
        "finetune_lm.py": ["TRL SFTTrainer", "radit-job float32"],
    }.get(step.script)
    return command if ways is None else [*command, "--ways", *ways, *(["radit-job bfloat16"] if half else [])]


def run(command: list[str], limit_s: float | None, threads: int) -> Any:
    """What the process told in its last line; SystemExit in words if it failed."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, error = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"took longer than {limit_s:.0f} s") from None
    finally:
        if process.poll() is None:  # what it started would disturb the next step
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        said = [line for line in error.splitlines() if line.strip()]
        raise SystemExit(said[-1] if said else f"ended with exit code {process.returncode}")
    return json.loads(out.splitlines()[-1])


def machine_limits(threads: int) -> dict[str, Any]:
    """What limits.py tells; nothing where it fails, for the steps can do without."""
    try:
        return run([sys.executable, str(FOLDER / "limits.py"), "--threads", str(threads)], None, threads)
    except SystemExit as failed:
        return {"device": f"limits not known ({failed})", "bfloat16_pays": False, "limits": {}, "lm": None}


def better(machine: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The machine with the best that it was seen to do so far: another program may disturb a measurement."""
    limits = {
        dtype: {name: max(value, earlier.get(dtype, found)[name]) for name, value in found.items()}
        for dtype, found in machine["limits"].items()
    }
    return {**machine, "limits": earlier | limits}


def share_of_limit(facts: dict[str, Any], seconds: float, machine: dict[str, Any]) -> str:
    """The least time that this machine allows for the work, by the time that it took."""
    limits = machine["limits"].get(facts.get("dtype") or "float32")
    if limits is None:
        return "-"
    if "flop" in facts:
        return f"{facts['flop'] / limits['flop_per_s'] / seconds:.0%}"
    if "n_completion_tokens" in facts and machine["lm"]:
        return f"{answers_floor_s(facts, Machine(**limits), ModelSize(**machine['lm'])) / seconds:.0%}"
    return "-"


def answers_floor_s(facts: dict[str, Any], limits: Machine, size: ModelSize) -> float:
    """As many decoded together as the stage would, each prompt and answer as long as the mean."""
    if facts["dtype"] == "bfloat16":
        size = replace(size, bytes_per_weight=2, kv_bytes_per_token=size.kv_bytes_per_token // 2)
    n_prompt, n_completion, n_shared = (
        round(facts[f"n_{kind}_tokens"] / facts["n"]) for kind in ("prompt", "completion", "shared")
    )
    batch = min(facts["n"], facts["n_decoded_together"])
    one = floor(size, limits, Work([n_prompt] * batch, [n_completion] * batch, n_shared=[n_shared] * batch))
    return (one.prefill_s + one.decode_s) * facts["n"] / batch


def lines(step: Step, rows: list[dict[str, Any]], machine: dict[str, Any]) -> Iterator[list[str]]:
    """One for each way that has a reach."""
    for row in rows:
        if row["way"] not in step.reach:
            continue
        reach = step.reach[row["way"]]
        dtype = next((short for name, short in SHORT.items() if row["way"].endswith(name)), "")
        limit = share_of_limit(row["facts"], row["seconds"], machine)
        spread = f"{row['low']:.2f}-{row['high']:.2f}"
        asked = f"{reach:g}" if row["ratio"] >= reach else f"{reach:g} missed"
        yield [f"{step.name} {dtype}".strip(), step.peer, f"{row['ratio']:.2f}", spread, asked, limit, row["check"]]
        if "again_s" in row["facts"]:
            again_s = row["facts"]["again_s"]
            yield [
                "run again, no change",
                "-",
                f"{again_s:.2f} s",
                "",
                "< 1 s" if again_s < 1 else "< 1 s missed",
                "-",
                "",
            ]


def lines_of(step: Step, args: argparse.Namespace, machine: dict[str, Any]) -> list[list[str]]:
    """The step, measured; one line with the reason if it fails, which shall not cost the others' figures."""
    limit_s = None if args.full else LONGEST_STEP_S
    try:
        return list(lines(step, run(commands(step, args, machine["bfloat16_pays"]), limit_s, args.threads), machine))
    except SystemExit as failed:
        why = f"failed: {failed}"
    except Exception as failed:
        why = f"its figures are not understood: {failed!r}"
    return [[step.name, step.peer, "-", "", f"{min(step.reach.values()):g}", "-", why]]


HEADER = ["step", "peer", "times", "spread", "reach", "limit", "check"]
WIDTHS = [33, 32, 9, 18, 13, 6]


def print_line(cells: list[str]) -> None:
    """The check stands below, for it is long."""
    print("".join(f"{cell:{width}}" for cell, width in zip(cells, WIDTHS, strict=False)).rstrip())
    for text in textwrap.wrap(cells[6], 110):
        print(f"    {text}")
    sys.stdout.flush()


def as_markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cell or " " for cell in row) + " |" for row in [HEADER, ["-"] * 7, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes for which the reaches are meant")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", nargs="+", default=[step.script for step in STEPS], help="scripts; all by default")
    parser.add_argument("--markdown", type=Path, help="the table as Markdown, into this file")
    args = parser.parse_args()
    start_s = time.perf_counter()
    machine: dict[str, Any] = {"limits": {}}
    table: list[list[str]] = []
    print_line(HEADER)
    for step in STEPS:
        if step.script not in args.steps:
            continue
        if step.has_limit or "device" not in machine:
            machine = better(machine_limits(args.threads), machine["limits"])
        begin_s = time.perf_counter()
        rows = lines_of(step, args, machine)
        table += rows
        for row in rows:
            print_line(row)
        print(f"{step.name}: {time.perf_counter() - begin_s:.0f} s", file=sys.stderr, flush=True)
    peaks = "; ".join(
        f"{SHORT[dtype]} {found['flop_per_s'] / 1e9:.0f} GFLOP/s, memory {found['bytes_per_s'] / 1e9:.1f} GB/s"
        for dtype, found in machine["limits"].items()
    )
    print(f"\n{machine['device']}: {peaks}. All of it took {(time.perf_counter() - start_s) / 60:.1f} minutes.")
    if not machine["bfloat16_pays"]:
        print("No bf16 lines: this machine's bf16 matrix products are less than 1.5 times as fast as its fp32 ones.")
    if args.markdown:
        args.markdown.write_text(as_markdown(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
