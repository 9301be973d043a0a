"""The tuned query encoder's card: Markdown with the header that the Hugging Face hub reads."""

from __future__ import annotations

from typing import Any

from radit_job.training.retriever import RetrieverSummary

CARD = """---
library_name: sentence-transformers
base_model: {base_name}
license: {license}
pipeline_tag: sentence-similarity
tags: [ra-dit, retrieval-augmented-generation, sentence-transformers]
---
# {base_name}, tuned to find the passages that help a language model

Tuned by radit-job: the retriever half of RA-DIT ([arXiv 2310.01352](https://arxiv.org/abs/2310.01352), section 2.4),
language-model-supervised retrieval (LSR). It was shown questions with candidate passages, and learned which of them
make a language model find the reference answer likely.

**It encodes questions only.** Documents keep the vectors of the base model: compare `encode_query` of this model with
`encode_document` of {base_name}. Documents that this model itself encodes do not belong to the same space.

## What it is made of

| | |
|---|---|
| base model | {base_name} |
| base model's identity | `{base_identity}` |
| trained on | {n_train} questions with {n_candidates} candidate passages each |
| groups of questions with the same source | {n_groups}, held-out ones included |
| nothing for LSR to learn from | {n_flat} questions after whose candidates the language model finds the answer alike |
| held out to choose the weights | {n_dev} questions, of other source passages where these are known |
| trained | {n_trainable_parameters:,} of {n_parameters:,} parameters |
| loss | {loss} |
| likelihood, its temperature | {likelihood}, {lm_temperature:g} |
| cosine's temperature | {retriever_temperature:g} |
| learning rate, schedule | {learning_rate:g} at its peak, cosine, warm-up {warmup_share:.0%} of the steps |
| epochs asked for, steps done | {epochs_asked}, {n_steps}{early} |
| questions per step | {batch_size} |
| seed | {seed} |
| arithmetic | {dtype} |

## What it was taught

The target's entropy is {entropy_nats:.3f} nats on average; {max_entropy_nats:.3f} would mean that the language model
prefers none of the candidates, 0 that it wants one alone. {gold}

## How it learned

{epochs_table}

KL is that of the loss, in nats; recall and MRR are over all passages, for the held-out questions whose source passage
is known. `training.json` holds every step. Whether answers became better is not said here, but in the run's report.

## Use

```python
from sentence_transformers import SentenceTransformer

questions = SentenceTransformer("this folder").encode_query(["..."], normalize_embeddings=True)
```

## Licence

{license_note} The training text is that of the run's documents; their licence may bind this model too.
"""
DIVERGENCES = {"reverse": "KL(retriever \\|\\| target)", "forward": "KL(target \\|\\| retriever)"}


def retriever_card(
    summary: RetrieverSummary, *, base_name: str, base_identity: str, base_license: str | None, n_groups: int
) -> str:
    """The card's text; `base_license` None means that it is not known here."""
    settings = summary.settings
    known = f"The base model is under {base_license}." if base_license else "See the base model's licence."
    return CARD.format(
        **settings | {"dtype": summary.dtype},
        base_name=base_name,
        base_identity=base_identity,
        license=base_license.lower() if base_license else "other",
        license_note=known,
        n_groups=n_groups,
        n_train=summary.n_train,
        n_dev=summary.n_dev,
        n_candidates=summary.n_candidates,
        n_trainable_parameters=summary.n_trainable_parameters,
        n_parameters=summary.n_parameters,
        n_flat=summary.target["n_flat"],
        loss=_loss(settings),
        epochs_asked=_epochs_asked(settings),
        n_steps=len(summary.steps),
        early=" (stopped early)" if summary.stopped_early else "",
        entropy_nats=summary.target["entropy_nats"],
        max_entropy_nats=summary.target["max_entropy_nats"],
        gold=_gold(summary.target),
        epochs_table=_epochs(summary),
    )


def _loss(settings: dict[str, Any]) -> str:
    weight = settings["contrastive_weight"]
    return DIVERGENCES[settings["divergence"]] + (f" + {weight:g} x contrastive" if weight else "")


def _epochs_asked(settings: dict[str, Any]) -> str:
    warm = settings["warm_start_epochs"]
    return (f"{warm} contrastive, then " if warm else "") + f"{settings['epochs']} of LSR"


def _gold(target: dict[str, Any]) -> str:
    n = target["n_gold_among_candidates"]
    if not n:
        return "For no question the source passage is known and among the candidates."
    share = target["top_is_gold_share"]
    return f"Of {n} questions with their source passage among the candidates, it likes that best for {share:.0%}."


def _epochs(summary: RetrieverSummary) -> str:
    if not summary.epochs:
        return "Nothing was held out: the last weights were kept."
    ks = list(summary.epochs[0]["dev_recall"])
    head = ["epoch", "phase", "held-out KL", *(f"recall@{k}" for k in ks), "MRR"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in summary.epochs:
        kept = " (kept)" if row["epoch"] == summary.best_epoch else ""
        values = [row["dev_kl_nats"], *(row["dev_recall"][k] for k in ks), row["dev_mrr"]]
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {row['epoch']} | {row['phase']} | {shown[0]}{kept} | {' | '.join(shown[1:])} |")
    if summary.best_epoch == 0:
        lines.append("\n**No epoch brought the held-out KL down: these are the base model's own weights.**")
    return "\n".join(lines)
