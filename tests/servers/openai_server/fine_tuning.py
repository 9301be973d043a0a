"""The life of fine-tuning jobs: validating_files, queued, running, then succeeded, failed or cancelled.

A job moves on when it is looked at (GET /v1/fine_tuning/jobs/{id}), so that a run can be repeated, or by the clock.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.servers.openai_server.errors import ApiError, missing
from tests.servers.openai_server.faults import Fault
from tests.servers.openai_server.files import Files, new_id
from tests.servers.openai_server.skills import Tuned
from tests.servers.openai_server.state import Row
from tests.servers.openai_server.text import draw
from tests.servers.openai_server.training_file import TrainingFile, read

ENDED = ("succeeded", "failed", "cancelled")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobPace:
    """How long a job stays in validating_files, queued and running."""

    polls: tuple[int, int, int] = (1, 1, 3)  # retrievals that find it in that state
    seconds: tuple[float, float, float] | None = None  # by the clock instead


@dataclass(slots=True)
class Job:
    """One job; what the API shows of it is `shown`."""

    shown: Json
    training: TrainingFile
    validation: TrainingFile | None
    row: Row  # its line in the books
    fault: Fault | None
    asked: Json  # hyperparameters as they were asked for
    suffix: str
    n_polls: int = 0
    made_s: float = field(default_factory=time.monotonic)
    n_steps_told: int = 0
    events: list[Json] = field(default_factory=list)  # oldest first

    @property
    def n_steps(self) -> int:
        settings = self.settings()
        return math.ceil(len(self.training.rows) * settings["n_epochs"] / settings["batch_size"])

    def settings(self) -> Json:
        """Hyperparameters with "auto" made a number."""
        n = len(self.training.rows)
        auto = {"n_epochs": 3, "batch_size": max(1, round(0.002 * n)), "learning_rate_multiplier": 2.0}
        return {name: auto[name] if self.asked.get(name, "auto") == "auto" else self.asked[name] for name in auto}

    def tell(self, message: str, *, level: str = "info", data: Json | None = None) -> None:
        """One event more."""
        self.events.append({
            "object": "fine_tuning.job.event",
            "id": new_id("ftevent-"),
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "data": data or {},
            "type": "metrics" if data else "message",
        })  # fmt: skip


class Jobs:
    """All jobs, and the models that came of them."""

    def __init__(self, files: Files, pace: JobPace) -> None:
        self.pace = pace
        self._files = files
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._models: dict[str, Tuned] = {}

    def model(self, name: str) -> Tuned | None:
        """What a fine-tuned model knows; None if there is none of that name."""
        with self._lock:
            return self._models.get(name)

    def models(self) -> list[str]:
        """Names of the fine-tuned models."""
        with self._lock:
            return list(self._models)

    def create(self, body: Json, row: Row, fault: Fault | None, known_models: Iterable[str]) -> Json:
        """POST /v1/fine_tuning/jobs; a bad file is found later, as with OpenAI."""
        model, training_id, validation_id = body.get("model"), body.get("training_file"), body.get("validation_file")
        for name in ("model", "training_file"):
            if not isinstance(body.get(name), str):
                raise missing(name)
        if str(model) not in known_models:
            message = f"Model {model} is not available for fine-tuning or does not exist."
            raise ApiError(400, message, param="model", code="model_not_available")
        training = self._open("training_file", str(training_id))
        validation = self._open("validation_file", str(validation_id)) if validation_id else None
        method = body.get("method") or {}
        asked = (method.get(method.get("type", "supervised")) or {}).get("hyperparameters")
        asked = dict(asked or body.get("hyperparameters") or {})
        job_id, seed = new_id("ftjob-"), body.get("seed")
        shown: Json = {
            "object": "fine_tuning.job",
            "id": job_id,
            "model": model,
            "created_at": int(time.time()),
            "finished_at": None,
            "fine_tuned_model": None,
            "organization_id": "org-test",
            "result_files": [],
            "status": "validating_files",
            "validation_file": validation_id,
            "training_file": training_id,
            "hyperparameters": {
                name: asked.get(name, "auto") for name in ("n_epochs", "batch_size", "learning_rate_multiplier")
            },
            "trained_tokens": None,
            "error": {},
            "user_provided_suffix": body.get("suffix"),
            "seed": seed if seed is not None else int(draw("seed", job_id) * 2**31),
            "estimated_finish": None,
            "integrations": [],
            "metadata": body.get("metadata") or None,
        }
        shown["method"] = {"type": "supervised", "supervised": {"hyperparameters": shown["hyperparameters"]}}
        job = Job(shown, training, validation, row, fault, asked, body.get("suffix") or "")
        job.tell(f"Created fine-tuning job: {job_id}")
        also = f" and validation file: {validation_id}" if validation else ""
        job.tell(f"Validating training file: {training_id}{also}")
        with self._lock:
            self._jobs[job_id] = job
            return dict(shown)

    def retrieve(self, job_id: str) -> Json:
        """GET: the job as it is now, and one poll nearer to its end."""
        with self._lock:
            job = self._find(job_id)
            job.n_polls += 1
            self._advance(job)
            return dict(job.shown)

    def matching(self, query: dict[str, str]) -> list[Json]:
        """Newest first, those with the wanted metadata; looking at the list moves nothing that goes by polls."""
        wanted = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
        with self._lock:
            for job in self._jobs.values():
                self._advance(job)
            return [row for row in self.peek() if all((row["metadata"] or {}).get(k) == v for k, v in wanted.items())]

    def peek(self) -> list[Json]:
        """Newest first, as they stood when they were last looked at."""
        with self._lock:
            return [dict(job.shown) for job in reversed(self._jobs.values())]

    def events(self, job_id: str) -> list[Json]:
        """Newest first."""
        with self._lock:
            job = self._find(job_id)
            self._advance(job)
            return list(reversed(job.events))

    def checkpoints(self, job_id: str) -> list[Json]:
        """There are none."""
        with self._lock:
            self._find(job_id)
            return []

    def cancel(self, job_id: str) -> Json:
        """POST .../cancel."""
        with self._lock:
            job = self._find(job_id)
            self._advance(job)
            if job.shown["status"] in ENDED:
                message = f"Job has already completed: {job_id} ({job.shown['status']})"
                raise ApiError(400, message, code="invalid_job_state")
            self._end(job, "cancelled")
            job.tell("The job has been cancelled")
            return dict(job.shown)

    def _find(self, job_id: str) -> Job:
        if job_id not in self._jobs:
            message = f"Could not find fine tune: {job_id}"
            raise ApiError(404, message, param="fine_tune_id", code="fine_tune_not_found")
        return self._jobs[job_id]

    def _open(self, name: str, file_id: str) -> TrainingFile:
        try:
            return read(file_id, self._files.data(file_id))
        except ApiError as error:
            raise ApiError(400, f"invalid {name}: {file_id}", param=name) from error

    def _progress(self, job: Job) -> tuple[int, float]:
        """Which state it is due to be in (0, 1, 2, or 3 for the end), and how far the training is."""
        if self.pace.seconds is not None:
            lengths: tuple[float, ...] = self.pace.seconds
            left = time.monotonic() - job.made_s
        else:
            lengths, left = self.pace.polls, float(job.n_polls - 1)
        for state, length in enumerate(lengths):
            if left < length:
                return state, max(left, 0) / length
            left -= length
        return 3, 1.0

    def _advance(self, job: Job) -> None:
        due, share = self._progress(job)
        kind = job.fault.kind if job.fault else ""
        if job.shown["status"] == "validating_files" and due >= 1:
            if problem := job.training.problem or (job.validation.problem if job.validation else None):
                code, message, param = problem
                self._fail(job, code, message, param if job.training.problem else "validation_file")
                return
            job.shown["status"] = "queued"
            job.tell("Files validated, moving job to queued state")
        if job.shown["status"] == "queued" and due >= 2:
            job.shown.update(status="running", hyperparameters=job.settings())
            job.shown["method"] = {"type": "supervised", "supervised": {"hyperparameters": job.settings()}}
            job.shown["estimated_finish"] = int(time.time()) + 60
            job.tell("Fine-tuning job started")
        if job.shown["status"] == "running":
            share = share if due == 2 else 1.0
            stalls = kind == "job_stalls"
            self._train(job, int(job.n_steps * (min(share, 0.5) if stalls or kind == "job_fails" else share)))
            if kind == "job_fails" and due >= 3:
                assert job.fault is not None
                message = job.fault.message or "The job failed due to an internal error."
                self._fail(job, job.fault.code or "server_error", message, None)
            elif due >= 3 and not stalls:
                self._succeed(job)

    def _train(self, job: Job, up_to: int) -> None:
        """Tell of the steps up to this one, 10 times in a run at most."""
        total, every = job.n_steps, max(1, job.n_steps // 10)
        for step in range(job.n_steps_told + 1, up_to + 1):
            if step % every == 0 or step == total:
                data = self._metrics(job, step, is_last=step == total)
                told = [f"Step {step}/{total}: training loss={data['train_loss']:.2f}"]
                told += [f"validation loss={data['valid_loss']:.2f}"] if "valid_loss" in data else []
                told += [f"full validation loss={data['full_valid_loss']:.2f}"] if "full_valid_loss" in data else []
                job.tell(", ".join(told), data=data)
        job.n_steps_told = max(job.n_steps_told, up_to)

    def _metrics(self, job: Job, step: int, *, is_last: bool) -> Json:
        falls = math.exp(-3.0 * step / job.n_steps)
        noise = draw("loss", job.shown["training_file"], step) - 0.5
        train = round(0.35 + 1.6 * falls * (1 + 0.1 * noise), 5)
        data: Json = {
            "step": step,
            "total_steps": job.n_steps,
            "train_loss": train,
            "train_mean_token_accuracy": round(math.exp(-train / 2), 5),
        }
        if job.validation is not None:
            valid = round(0.6 + 1.4 * falls * (1 - 0.1 * noise), 5)
            data |= {"valid_loss": valid, "valid_mean_token_accuracy": round(math.exp(-valid / 2), 5)}
            if is_last:
                data |= {"full_valid_loss": valid, "full_valid_mean_token_accuracy": data["valid_mean_token_accuracy"]}
        return data

    def _succeed(self, job: Job) -> None:
        base = job.shown["model"]
        name = f"ft:{base}:test-org:{job.suffix}:{job.shown['id'][-8:]}"
        trained = job.training.n_tokens(base) * job.settings()["n_epochs"]
        result = self._files.create("step_metrics.csv", "fine-tune-results", base64.b64encode(_csv(job).encode()))
        self._models[name] = Tuned(base, job.training.examples, job.training.mean_words)
        job.shown.update(fine_tuned_model=name, trained_tokens=trained, result_files=[result["id"]])
        job.row.training_tokens = trained
        self._end(job, "succeeded")
        job.tell(f"New fine-tuned model created: {name}")
        job.tell("The job has successfully completed")

    def _fail(self, job: Job, code: str, message: str, param: str | None) -> None:
        job.shown["error"] = {"code": code, "message": message, "param": param}
        self._end(job, "failed")
        job.tell(message, level="error")

    def _end(self, job: Job, status: str) -> None:
        job.shown.update(status=status, finished_at=int(time.time()), estimated_finish=None)


def _csv(job: Job) -> str:
    names = ["step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    rows = [event["data"] for event in job.events if event["type"] == "metrics"]
    return "\n".join([",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]) + "\n"
