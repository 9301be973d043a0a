"""What is ordered from a fine-tuning API, and how a job that was made for exactly that is recognised."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radit_job.hashing import digest
from radit_job.training.api_examples import TrainingData

RECORD_FILE = "fine_tuning_job.json"  # in the stage's scratch; `radit cancel` reads it from the store
TAG = "radit"  # the key in the job's metadata
DEAD = ("failed", "cancelled")
MAX_SEED = 2**31 - 1  # what the API takes

Job = Mapping[str, Any]  # as the service tells it


@dataclass(frozen=True, slots=True)
class JobOrder:
    """One job as it is asked for."""

    tag: str  # digest of all that makes the tuned model; stands in the job's metadata
    model: str
    training_files: tuple[
        str, ...
    ]  # ids of files with the training data's content; the first one is named in the order
    validation_files: tuple[str, ...]
    hyperparameters: dict[str, float]
    suffix: str | None
    seed: int

    def body(self) -> dict[str, Any]:
        """The request: POST /fine_tuning/jobs of the OpenAI API; `method` has taken the place of `hyperparameters`."""
        body = {
            "model": self.model,
            "training_file": self.training_files[0],
            "validation_file": self.validation_files[0] if self.validation_files else None,
            "method": {"type": "supervised", "supervised": {"hyperparameters": self.hyperparameters}},
            "suffix": self.suffix,
            "seed": self.seed,
            "metadata": {TAG: self.tag},
        }
        return {name: value for name, value in body.items() if value is not None}

    def is_met_by(self, job: Job) -> bool:
        """Whether a job was made for exactly this: by its tag; at a service that drops metadata, by all it tells."""
        metadata = job.get("metadata") or {}
        if metadata:
            return bool(metadata.get(TAG) == self.tag)
        wanted = {
            **self.hyperparameters,
            "seed": self.seed,
            "user_provided_suffix": self.suffix,
        }
        told = {**hyperparameters_of(job), **{name: job.get(name) for name in ("seed", "user_provided_suffix")}}
        return (
            job.get("training_file") in self.training_files
            and job.get("validation_file") in (self.validation_files or (None, ""))
            and is_version_of(str(job.get("model")), self.model)
            and all(told.get(name) in (None, "auto", value) for name, value in wanted.items())
        )

    def choose(self, jobs: Iterable[Job]) -> Job | None:
        """The job to go on with: one that succeeded, else the oldest that is not dead.

        Whoever looks at the same jobs chooses the same one.
        """
        met = [job for job in jobs if job.get("status") not in DEAD and self.is_met_by(job)]
        return min(met, key=lambda job: (job.get("status") != "succeeded", _age(job)), default=None)

    def surplus(self, jobs: Iterable[Job], chosen: Job, *, own_id: str) -> list[str]:
        """The other jobs for exactly this that still cost money: known by the tag, or just ordered under `own_id`.

        Without a tag it might be somebody else's, who wants it.
        """
        return [
            str(job["id"])
            for job in jobs
            if job["id"] != chosen["id"]
            and job.get("status") not in (*DEAD, "succeeded")
            and ((job.get("metadata") or {}).get(TAG) == self.tag or job["id"] == own_id)
        ]


def order_of(
    model: str,
    data: TrainingData,
    *,
    training_files: tuple[str, ...],
    validation_files: tuple[str, ...],
    epochs: int,
    batch_size: int | None,
    learning_rate_multiplier: float | None,
    suffix: str | None,
    seed: int,
) -> JobOrder:
    """The order for these data, with its tag; equal content has an equal tag, whatever the files' ids are."""
    given = {"n_epochs": epochs, "batch_size": batch_size, "learning_rate_multiplier": learning_rate_multiplier}
    hyperparameters = {name: value for name, value in given.items() if value is not None}
    seed %= MAX_SEED + 1
    made_of = {
        "model": model,
        "training": data.training.sha256,
        "validation": data.validation.sha256 if data.validation else None,
        "hyperparameters": hyperparameters,
        "suffix": suffix,
        "seed": seed,
    }
    return JobOrder(digest(made_of), model, training_files, validation_files, hyperparameters, suffix, seed)


def hyperparameters_of(job: Job) -> dict[str, Any]:
    """The job's hyperparameters as the service tells them, in the place of today or of former times."""
    supervised = ((job.get("method") or {}).get("supervised") or {}).get("hyperparameters") or {}
    told = {**(job.get("hyperparameters") or {}), **supervised}
    return {name: value for name, value in told.items() if value is not None}


def is_version_of(model: str, name: str) -> bool:
    """Whether a service's name of a model is the one asked for, perhaps with its date: gpt-x-2030-01-31 for gpt-x."""
    return model == name or model.startswith(f"{name}-2")


def _age(job: Job) -> tuple[float, str]:
    return float(job.get("created_at") or 0), str(job.get("id"))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the stage's scratch holds of its job: written before it is ordered, and again as soon as it has an id."""

    order: JobOrder
    base_url: str
    key_variable: str | None  # the environment variable that holds the service's key
    job_id: str | None = None  # None: it was about to be ordered, and may have been
    is_paid_here: bool = True  # False: it was found at the service, made by somebody else or by an earlier run

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        partial = folder / f"{RECORD_FILE}.partial"
        partial.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(folder / RECORD_FILE)

    @staticmethod
    def delete(folder: Path) -> None:
        """There is no job any more that anybody would go on with."""
        (folder / RECORD_FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> JobRecord | None:
        """The record in a scratch folder, if there is one."""
        path = folder / RECORD_FILE
        return cls.parse(path.read_bytes()) if path.is_file() else None

    @classmethod
    def parse(cls, data: bytes) -> JobRecord:
        """The inverse of what `save` writes."""
        plain = json.loads(data)
        order = plain.pop("order")
        files = {name: tuple(order[name]) for name in ("training_files", "validation_files")}
        return cls(JobOrder(**{**order, **files}), **plain)
