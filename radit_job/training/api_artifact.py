"""The `lm` artifact of a fine-tuning API: the model's name, the record of its training, and its card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radit_job.model_ref import ModelRef, key_variable
from radit_job.training.api_examples import DataFile, TrainingData
from radit_job.training.api_history import Losses
from radit_job.training.api_order import Job, hyperparameters_of

CARD = """---
base_model: {base}
pipeline_tag: text-generation
tags: [ra-dit, retrieval-augmented-generation]
---
# {name}

{base}, tuned by the fine-tuning API at {base_url} to answer as in the training examples (loss on the
answers only): the language model half of RA-DIT ([arXiv 2310.01352](https://arxiv.org/abs/2310.01352)).
{origin} The weights stay with the service.

## What it is made of

| | |
|---|---|
| base model | {base} |
| job | `{job_id}` |
{rows}

## How it learned

{losses}

`training.json` holds the curve as far as the service tells it. Whether answers became better is not said here, but in
the run's report.

## Use

```python
from openai import OpenAI

client = OpenAI(base_url="{base_url}")  # the key: {key_variable}
client.chat.completions.create(model="{name}", messages=[...])
```

Ask in the form of the training examples, system message included. The training text is that of the run's documents;
their licence, and the service's terms, may bind this model.
"""


@dataclass(frozen=True, slots=True)
class ServedTuning:
    """A tuned model that a service has, and how it came about."""

    name: str
    ref: ModelRef  # the base model, as it was configured
    job: Job
    losses: Losses
    data: TrainingData | None  # None: the job was given
    n_tokens: int | None  # trained on, every epoch counted, as the service tells

    def write(self, out: Path, *, n_questions: int, n_groups: int) -> None:
        """Write model.json, training.json, README.md, and train.jsonl and validation.jsonl as they were sent."""
        (out / "model.json").write_text(json.dumps(self.model_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        (out / "training.json").write_text(json.dumps(self.training_json(), indent=1), encoding="utf-8")
        (out / "README.md").write_text(self.card(n_questions, n_groups), encoding="utf-8")
        if self.data:
            (out / "train.jsonl").write_bytes(self.data.training.data)
            if self.data.validation:
                (out / "validation.jsonl").write_bytes(self.data.validation.data)

    @property
    def base(self) -> str:
        """The base model by the name that the service gives it."""
        return str(self.job.get("model") or self.ref.name)

    @property
    def n_train(self) -> int | None:
        """Examples trained on; None where the job was given."""
        return self.data.training.n_rows if self.data else None

    @property
    def n_dev(self) -> int | None:
        """Examples held out."""
        if self.data is None:
            return None
        return self.data.validation.n_rows if self.data.validation else 0

    @property
    def n_dropped(self) -> int | None:
        """Examples left out as too long."""
        return self.data.n_dropped if self.data else None

    @property
    def dev_loss_after(self) -> float | None:
        """The last held-out loss: the service keeps the last weights."""
        return self.losses.evaluations[-1]["dev_loss"] if self.losses.evaluations else None

    def model_json(self) -> dict[str, Any]:
        """`lm/model.json`: where the tuned model is found."""
        return {
            "provider": "openai",
            "name": self.name,
            "base_url": self.ref.base_url,
            "job_id": self.job["id"],
            "base_model": self.base,
        }

    def training_json(self) -> dict[str, Any]:
        """`lm/training.json`, in the shape of the local engine's; what only a local engine knows is null."""
        data = self.data
        last = max((row["step"] for row in [*self.losses.steps, *self.losses.evaluations]), default=None)
        return {
            "engine": "openai",
            "job_id": self.job["id"],
            "base_model": self.base,
            "model": self.name,
            "steps": self.losses.steps,
            "evaluations": self.losses.evaluations,
            "best_step": None if last is None else int(self.losses.n_steps or last),
            "stopped_early": False,
            "n_steps": self.losses.n_steps,
            "n_train": self.n_train,
            "n_dev": self.n_dev,
            "n_truncated": 0 if data else None,
            "n_dropped": self.n_dropped,
            "n_trained_tokens": self.n_tokens,
            "settings": {**hyperparameters_of(self.job), "seed": self.job.get("seed")},
            "files": {
                "training": _file_json(self.job.get("training_file"), data.training if data else None),
                "validation": _file_json(self.job.get("validation_file"), data.validation if data else None),
            },
        }

    def card(self, n_questions: int, n_groups: int) -> str:
        """`lm/README.md`; the numbers are those of all examples, held-out ones included."""
        return CARD.format(
            name=self.name,
            base=self.base,
            base_url=self.ref.base_url,
            key_variable=key_variable(self.ref) or "it needs none",
            job_id=self.job["id"],
            origin="The job was made by radit-job." if self.data else "The job was given to radit-job, not made by it.",
            rows="\n".join(
                f"| {name} | {value} |"
                for name, value in self._facts(n_questions, n_groups).items()
                if value is not None
            ),
            losses=self._losses_table(),
        )

    def _facts(self, n_questions: int, n_groups: int) -> dict[str, Any]:
        data, settings = self.data, hyperparameters_of(self.job)
        examples = ""
        if data:
            asked = f"{n_questions} questions and {n_groups} source passages, held-out ones included"
            examples = f"{data.training.n_rows} examples ({asked}), "
        held_out = f"{data.validation.n_rows} examples of other source passages, " if data and data.validation else ""
        validation = self.job.get("validation_file")
        return {
            "trained on": f"{examples}file `{self.job.get('training_file')}`",
            "held out to measure the loss": f"{held_out}file `{validation}`" if validation else "nothing",
            "examples dropped as too long": self.n_dropped,
            "tokens trained on": f"{self.n_tokens:,}, every epoch counted" if self.n_tokens else None,
            "epochs": settings.get("n_epochs"),
            "examples per step": settings.get("batch_size"),
            "learning rate, times the service's own": settings.get("learning_rate_multiplier"),
            "seed": self.job.get("seed"),
        }

    def _losses_table(self) -> str:
        steps, evaluations = self.losses.steps, self.losses.evaluations
        said = f"Training loss: {steps[0]['loss']:.4f} at step {steps[0]['step']}, " if steps else ""
        said += f"{steps[-1]['loss']:.4f} at step {steps[-1]['step']}.\n\n" if steps else ""
        if not evaluations:
            return said + "The service tells no loss on held-out examples."
        rows = [f"| {row['step']} | {row['dev_loss']:.4f} |" for row in evaluations]
        return said + "\n".join(["| step | held-out loss |", "|---|---|", *rows])


def _file_json(name: Any, file: DataFile | None) -> dict[str, Any] | None:
    if not name:
        return None
    told = {"sha256": file.sha256, "n_rows": file.n_rows, "n_tokens": file.n_tokens} if file else {}
    return {"id": name, **told}
