"""What a fine-tuning job tells while it runs: its events, shown once each, and the losses that stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radit_job import observe

Event = Mapping[str, Any]  # fine_tuning.job.event of the OpenAI API


@dataclass(frozen=True, slots=True)
class Losses:
    """The job's curve, in the shape of the local engine's training.json."""

    steps: list[dict[str, float]]  # step, loss: nats per answer token
    evaluations: list[dict[str, float]]  # step, dev_loss
    n_steps: int | None  # all there are; not every one need be told


class EventLog:
    """The events of one job so far."""

    def __init__(self, bar: observe.Progress) -> None:
        """Metrics move the bar; words become log lines."""
        self.events: list[Event] = []
        self._bar = bar
        self._seen: set[str] = set()

    @property
    def last_id(self) -> str | None:
        """The newest event's id."""
        return str(self.events[-1].get("id")) if self.events else None

    def take(self, events: Iterable[Event]) -> None:
        """Show those that are new; oldest first."""
        for event in events:
            name = str(event.get("id"))
            if name in self._seen:
                continue
            self._seen.add(name)
            self.events.append(event)
            self._show(event)

    def _show(self, event: Event) -> None:
        metrics = metrics_of(event)
        if metrics is None:
            tell = observe.log if event.get("level", "info") == "info" else observe.warn
            tell(f"the service says: {event.get('message')}")
            return
        self._bar.total = metrics.get("total_steps", self._bar.total)
        figures = {"loss": metrics.get("train_loss"), "held_out_loss": _held_out_loss(metrics)}
        shown = {name: round(value, 4) for name, value in figures.items() if value is not None}
        self._bar.advance(max(0, int(metrics["step"]) - self._bar.done), **shown)


def metrics_of(event: Event) -> dict[str, Any] | None:
    """The figures of a metrics event, numbers only; None for another one."""
    data = event.get("data")
    if not isinstance(data, Mapping):
        return None
    numbers = {name: value for name, value in data.items() if isinstance(value, int | float) and value == value}
    return numbers if "step" in numbers and len(numbers) > 1 else None


def losses_of(events: Sequence[Event]) -> Losses:
    """The curve that the events tell, by step.

    Where the service measures the whole held-out file at times (full_valid_loss), the losses of single held-out
    batches (valid_loss) are left out: they scatter, and are no measure of the same thing.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for event in events:
        if metrics := metrics_of(event):
            by_step.setdefault(int(metrics["step"]), {}).update(metrics)
    rows = sorted(by_step.items())
    name = "full_valid_loss" if any("full_valid_loss" in metrics for _, metrics in rows) else "valid_loss"
    told = [metrics["total_steps"] for _, metrics in rows if "total_steps" in metrics]
    return Losses(
        steps=[{"step": step, "loss": metrics["train_loss"]} for step, metrics in rows if "train_loss" in metrics],
        evaluations=[{"step": step, "dev_loss": metrics[name]} for step, metrics in rows if name in metrics],
        n_steps=int(told[-1]) if told else (rows[-1][0] if rows else None),
    )


def _held_out_loss(metrics: Mapping[str, Any]) -> float | None:
    return metrics.get("full_valid_loss", metrics.get("valid_loss"))
