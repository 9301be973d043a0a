"""Tuning the packaged model: radit-job's loop beside transformers.Trainer, each in a process of its own.

    python benchmarks/finetune_lm.py [--steps 20] [--batch-size 4] [--threads 2]

Both train the same LoRA (PEFT, rank 16, all linear layers, float32, AdamW) on the same conversations cut from the
quickstart's handbook, in batches of similar length, with the loss on the answers only. `peft` is our loop with PEFT's
own arithmetic in place of `training/lowrank.py`. The order turns from round to round, and the fastest round counts.
On a busy machine look at the CPU seconds with --threads 1 (ours include loading and saving the model there).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HANDBOOK = Path(__file__).parent.parent / "examples" / "quickstart" / "handbook.md"
VARIANTS = ("ours", "peft", "trainer")
MODEL = "smollm2-135m-instruct"


def examples(n: int) -> list:
    """Conversations of 250 to 400 tokens: a stretch of the handbook, and one of its sentences as the answer."""
    from radit_job.records import Example, Message

    rng = random.Random(7)
    text = HANDBOOK.read_text(encoding="utf-8")
    found = []
    for _ in range(n):
        start, length = rng.randrange(len(text) - 1600), rng.randrange(800, 1400)
        context = text[start : start + length]
        answer = " ".join(context.split()[40:65])
        question = "What does it say?"
        messages = (
            Message("system", "Answer from the context."),
            Message("user", f"Context information is below.\n{context}\nQuery: {question}\nAnswer: "),
            Message("assistant", answer),
        )
        found.append(Example(f"q{len(found)}", question, "handbook", (), (), None, messages))
    return found


def run_ours(rows: list, steps: int, batch_size: int, *, merged: bool) -> tuple[float, float, int]:
    from radit_job.models.conversion import packaged_folder
    from radit_job.training import lm
    from radit_job.training.settings import LMTrainingSettings

    if not merged:
        lm.use_merged_products = lambda model: []
    settings = LMTrainingSettings(epochs=1, batch_size=batch_size, dtype="float32", checkpoint_interval_s=1e9)
    start_cpu_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        summary = lm.tune(
            packaged_folder(MODEL),
            rows,
            [],
            settings,
            out=Path(folder, "lm"),
            scratch=Path(folder, "s"),
            base_name=MODEL,
        )
    assert len(summary.steps) == steps
    return summary.training_s, time.process_time() - start_cpu_s, summary.n_tokens


def run_trainer(rows: list, steps: int, batch_size: int) -> tuple[float, float, int]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import open_local_lm
    from radit_job.training.examples import encode_examples

    opened = open_local_lm(ModelRef("packaged", MODEL, dtype="float32"))
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(opened.model, config)
    encoded = encode_examples(opened.chat, rows, 1024).examples
    data = [
        {"input_ids": list(e.ids), "labels": [-100] * e.n_prompt_tokens + list(e.ids[e.n_prompt_tokens :])}
        for e in encoded
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            learning_rate=5e-4,
            lr_scheduler_type="cosine",
            train_sampling_strategy="group_by_length",
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=data, data_collator=DataCollatorForSeq2Seq(opened.tokenizer))
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        trainer.train()
        return time.perf_counter() - start_s, time.process_time() - start_cpu_s, sum(len(e.ids) for e in encoded)


def measure(variant: str, steps: int, batch_size: int) -> None:
    rows = examples(steps * batch_size)
    if variant == "trainer":
        seconds, cpu_s, tokens = run_trainer(rows, steps, batch_size)
    else:
        seconds, cpu_s, tokens = run_ours(rows, steps, batch_size, merged=variant == "ours")
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"variant": variant, "seconds": seconds, "cpu_s": cpu_s, "tokens": tokens, "peak_gib": peak_gib}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=VARIANTS)
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.steps, args.batch_size)
        return
    env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    best: dict[str, dict] = {}
    for number in range(args.rounds):
        for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
            command = [sys.executable, __file__, "--only", variant]
            command += ["--steps", str(args.steps), "--batch-size", str(args.batch_size)]
            done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if variant not in best or found["seconds"] < best[variant]["seconds"]:
                best[variant] = found
    print(f"{args.steps} steps of {args.batch_size} examples, {args.threads} threads, float32, best of {args.rounds}")
    print(f"{'':10}{'tokens/s':>10}{'s/example':>11}{'CPU s/example':>15}{'peak GiB':>10}")
    for variant in VARIANTS:
        row = best[variant]
        seconds, cpu_s = (row[key] / (args.steps * args.batch_size) for key in ("seconds", "cpu_s"))
        speed = row["tokens"] / row["seconds"]
        print(f"{variant:10}{speed:10.0f}{seconds:11.2f}{cpu_s:15.2f}{row['peak_gib']:10.1f}")


if __name__ == "__main__":
    main()
