"""The tuned model's card: Markdown with the header that the Hugging Face hub reads."""

from __future__ import annotations

from radit_job.training.lm import TrainingSummary

CARD = """---
library_name: transformers
base_model: {base_name}
license: {license}
pipeline_tag: text-generation
tags: [ra-dit, retrieval-augmented-generation]
---
# {base_name}, tuned to answer from retrieved passages

Tuned by radit-job: the language model half of RA-DIT ([arXiv 2310.01352](https://arxiv.org/abs/2310.01352)). It was
shown questions with retrieved passages, and learned the reference answers (loss on the answers only).

## What it is made of

| | |
|---|---|
| base model | {base_name} |
| base model's identity | `{base_identity}` |
| trained on | {n_train} examples ({n_questions} questions and {n_groups} source passages, held-out ones included) |
| held out to choose the weights | {n_dev} examples, of other source passages |
| examples cut to fit {max_tokens} tokens | {n_truncated} (context only); {n_dropped} dropped |
| method | {method} |
| learning rate, schedule | {learning_rate:g} at its peak, cosine, warm-up {warmup_share:.0%} of the steps |
| epochs asked for, steps done | {epochs:g}, {n_steps}{early} |
| examples per step | {per_step} |
| seed | {seed} |
| arithmetic | {dtype}{processes} |

## How it learned

{losses}

Loss is the mean negative log-probability of an answer's tokens, in nats. `training.json` holds the whole curve.
Whether answers became better is not said here, but in the run's report.

## Use

`merged/` opens with `AutoModelForCausalLM.from_pretrained`{adapter}.
Ask in the chat format that the tokenizer carries, with the same prompt as in training.

## Licence

{license_note} The training text is that of the run's documents; their licence may bind this model too.
"""


def model_card(
    summary: TrainingSummary,
    *,
    base_name: str,
    base_identity: str,
    base_license: str | None,
    n_questions: int,
    n_groups: int,
) -> str:
    """The card's text; `base_license` None means that it is not known here."""
    settings = summary.settings
    is_lora = settings["method"] == "lora"
    method = f"LoRA, rank {settings['lora_rank']}" if is_lora else "all weights"
    known = f"The base model is under {base_license}." if base_license else "See the base model's licence."
    return CARD.format(
        **settings
        | {"method": f"{method}: {summary.n_trainable_parameters:,} parameters trained", "dtype": summary.dtype},
        base_name=base_name,
        base_identity=base_identity,
        license=base_license.lower() if base_license else "other",
        license_note=known,
        n_questions=n_questions,
        n_groups=n_groups,
        n_train=summary.n_train,
        n_dev=summary.n_dev,
        n_truncated=summary.n_truncated,
        n_dropped=summary.n_dropped,
        n_steps=len(summary.steps),
        early=" (stopped early)" if summary.stopped_early else "",
        per_step=settings["batch_size"] * settings["accumulation_steps"],
        losses=_losses(summary),
        processes=f", in {summary.n_processes} processes ({summary.world['kind']})" if summary.n_processes > 1 else "",
        adapter=", `adapter/` with `PeftModel.from_pretrained` on the base model" if is_lora else "",
    )


def _losses(summary: TrainingSummary) -> str:
    if not summary.evaluations:
        return "Nothing was held out: the last weights were kept."
    lines = ["| step | epoch | held-out loss |", "|---|---|---|"]
    for row in summary.evaluations:
        kept = " (kept)" if row["step"] == summary.best_step else ""
        lines.append(f"| {row['step']} | {row['epoch']:g} | {row['dev_loss']:.4f}{kept} |")
    return "\n".join(lines)
