"""Tuning the packaged model, beside TRL: `python benchmarks/finetune_lm.py [--steps 10] [--batch-size 4]`.

All train the same LoRA (PEFT, rank 16, all linear layers, the same first weights, AdamW, the same rates) on the same
conversations, cut from the quickstart's handbook, in the same batches, with the loss on the answers only. The checks
are the loss of each step, the loss of held-out conversations in the end, and peak memory.

The peer is TRL's SFTTrainer with a prompt/completion dataset in float32. TRL saves memory by computing activations
twice unless it is told not to; the peer is told not to, for then it is faster, and `TRL, gradient checkpointing` is
what it does by itself. `radit-job, PEFT's products` is our loop with PEFT's own arithmetic in place of
`training/lowrank.py`. Those that are not run by default: --ways names them. TRL comes with `pip install -e
'.[bench]'`.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import LM, QUICKSTART, Compared, Timer, alternate, compare, options, passed_on, show

PEER = "TRL SFTTrainer"
WAYS = (
    PEER,
    "TRL, gradient checkpointing",
    "TRL SFTTrainer bfloat16",
    "transformers.Trainer",
    "radit-job float32",
    "radit-job, PEFT's products",
    "radit-job bfloat16",
)
DEFAULT = (PEER, "transformers.Trainer", "radit-job float32")
SEED, RANK, PEAK_RATE, MAX_TOKENS, N_HELD_OUT = 7, 16, 5e-4, 1024, 8


def examples(n: int, seed: int) -> list:
    """Conversations of 250 to 400 tokens: a stretch of the handbook, and one of its sentences as the answer."""
    from radit_job.records import Example, Message

    rng = random.Random(seed)
    text = (QUICKSTART / "handbook.md").read_text(encoding="utf-8")
    found = []
    for number in range(n):
        start, length = rng.randrange(len(text) - 1600), rng.randrange(800, 1400)
        context = text[start : start + length]
        answer = " ".join(context.split()[40:65])
        question = "What does it say?"
        messages = (
            Message("system", "Answer from the context."),
            Message("user", f"Context information is below.\n{context}\nQuery: {question}\nAnswer: "),
            Message("assistant", answer),
        )
        found.append(Example(f"q{number}", question, "handbook", (), (), None, messages))
    return found


def in_our_order(rows: list, encoded: tuple, batch_size: int) -> list:
    """The examples as our loop takes them: the others are told to take them as they stand."""
    from radit_job.training.batches import epoch_batches

    return [rows[row] for batch in epoch_batches(encoded, batch_size, SEED, 0) for row in batch]


def ours(args: argparse.Namespace, folder: Path, rows: list) -> tuple[Timer, list[float], Any]:
    from radit_job.models.huggingface import HuggingFaceLM
    from radit_job.training import lm
    from radit_job.training.settings import LMTrainingSettings

    if args.only == "radit-job, PEFT's products":
        lm.use_merged_products = lambda model: []
    settings = LMTrainingSettings(
        epochs=1,
        learning_rate=PEAK_RATE,
        warmup_share=0,
        batch_size=args.batch_size,
        max_tokens=MAX_TOKENS,
        lora_rank=RANK,
        checkpoint_interval_s=1e9,
        dtype="bfloat16" if args.only.endswith("bfloat16") else "float32",
        seed=SEED,
    )
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "lm")
        with Timer() as timer:
            summary = lm.tune(folder, rows, [], settings, out=out, scratch=Path(scratch, "s"), base_name=LM)
        timer.seconds = summary.training_s  # the peers' loading and saving are not counted either
        tuned = HuggingFaceLM.open(out / "merged", dtype=settings.dtype).model
    return timer, [step["loss"] for step in summary.steps], tuned


def trainer(args: argparse.Namespace, folder: Path, rows: list, chat: Any, encoded: list) -> tuple:
    """TRL's trainer, or the one of transformers that it is built upon."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    half = args.only.endswith("bfloat16")
    common = {
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": 1,
        "learning_rate": PEAK_RATE,
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": "sequential",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": half,
        "logging_steps": 1,
        "seed": SEED,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        if args.only.startswith("TRL"):
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            data = Dataset.from_list(
                [{"prompt": chat.render(row.messages[:-1]), "completion": row.messages[-1].content} for row in rows]
            )
            checkpointing = args.only == "TRL, gradient checkpointing"
            settings = SFTConfig(scratch, gradient_checkpointing=checkpointing, max_length=MAX_TOKENS, **common)
            found = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer, peft_config=lora)
            theirs = [tuple(row["input_ids"]) for row in found.train_dataset]
            if theirs != [one.ids for one in encoded]:
                raise SystemExit("TRL's tokens are not ours")
        else:
            from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

            set_seed(SEED)
            data = [
                {"input_ids": list(e.ids), "labels": [-100] * e.n_prompt_tokens + list(e.ids[e.n_prompt_tokens :])}
                for e in encoded
            ]
            collator = DataCollatorForSeq2Seq(tokenizer)
            settings = TrainingArguments(scratch, **common)
            found = Trainer(get_peft_model(model, lora), settings, train_dataset=data, data_collator=collator)
        with Timer() as timer:
            found.train()
    return timer, [line["loss"] for line in found.state.log_history if "loss" in line], found.model


def held_out_loss(model: Any, encoded: list) -> float:
    """Nats per answer token, one conversation after the other."""
    import torch

    nats, n_tokens = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for one in encoded:
            ids = torch.tensor([one.ids], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, one.n_prompt_tokens - 1 : -1].double()
            nats += float(torch.nn.functional.cross_entropy(logits, ids[0, one.n_prompt_tokens :], reduction="sum"))
            n_tokens += one.n_answer_tokens
    return nats / n_tokens


def measure(args: argparse.Namespace) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from radit_job.models.chat import ChatFormat
    from radit_job.models.conversion import packaged_folder
    from radit_job.training.examples import encode_examples

    torch.set_num_threads(args.threads)
    folder = packaged_folder(LM)
    chat = ChatFormat(AutoTokenizer.from_pretrained(folder))
    rows = examples(args.steps * args.batch_size, SEED)
    encoded = encode_examples(chat, rows, MAX_TOKENS).examples
    held_out = encode_examples(chat, examples(N_HELD_OUT, SEED + 1), MAX_TOKENS).examples
    if args.only.startswith("radit-job"):
        timer, losses, model = ours(args, folder, rows)
    else:
        ordered = in_our_order(list(zip(rows, encoded, strict=True)), encoded, args.batch_size)
        in_order, encoded = ([pair[side] for pair in ordered] for side in (0, 1))
        timer, losses, model = trainer(args, folder, in_order, chat, encoded)
    n_tokens = sum(len(one.ids) for one in encoded)
    n_answer_tokens = sum(one.n_answer_tokens for one in encoded)
    config = AutoConfig.from_pretrained(folder)
    n_head = config.vocab_size * config.hidden_size
    n_body = sum(p.numel() for p in model.parameters() if p.dim() == 2) - n_head
    # Forward and the gradient of what went in: two operations a weight each. Adapters are 4 % of the weights.
    flop = 4 * (n_body * n_tokens + n_head * n_answer_tokens)
    dtype = "bfloat16" if args.only.endswith("bfloat16") else "float32"
    check = {"losses": losses, "held_out": held_out_loss(model, list(held_out))}
    timer.print(check, dtype=dtype, n_examples=len(rows), n_tokens=n_tokens, flop=flop)


def says(row: Compared, peer: Compared) -> str:
    said = (
        f"{row.facts['n_tokens'] / row.seconds:.0f} tokens/s, {row.seconds / row.facts['n_examples']:.2f} s an example"
    )
    if row is peer:
        return f"{said}, held-out loss {row.check['held_out']:.4f}"
    off = max(abs(a - b) for a, b in zip(row.check["losses"], peer.check["losses"], strict=True))
    held_out = row.check["held_out"] / peer.check["held_out"] - 1
    memory = row.peak_gib / peer.peak_gib
    return f"{said}, losses differ by {off:.1e} at most, held-out loss {held_out:+.2%}, {memory:.2f} of its memory"


def main() -> None:
    parser = options(__doc__, WAYS, default=DEFAULT)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    args = parser.parse_args()
    if args.only:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        measure(args)
        return
    found = alternate(__file__, args.ways, args.rounds, args.threads, passed_on(args, ("steps", "batch_size")))
    rows = compare(found, PEER)
    show(rows, lambda row: says(row, rows[0]), as_json=args.json)


if __name__ == "__main__":
    main()
