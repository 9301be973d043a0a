"""What paid calls gave and cost: kept as it arrives, and held against a budget.

    <folder>/0-000000012.jsonl    one row per answer, in the order in which they came; files are never changed

Each call's thread returns only when its answer is saved. The threads that come meanwhile wait together, and one of
them saves for all (group commit), so that saving never queues up behind the service.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radit_job.errors import ConfigError

ROUNDING_USD = 1e-9  # what sums of many small floats may be off by
MERGED_FILES = 64  # so many small files become one, or saving thousands of answers would list thousands of files


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input_usd: float
    output_usd: float = 0.0
    training_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call, or several, used."""

    n_calls: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    n_training_tokens: int = 0  # each epoch counted

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.n_calls + other.n_calls,
            self.n_prompt_tokens + other.n_prompt_tokens,
            self.n_completion_tokens + other.n_completion_tokens,
            self.n_training_tokens + other.n_training_tokens,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What one model's calls used and cost; `usd` is None where its price is unknown."""

    usage: Usage
    usd: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they stand in result.json and results.json."""
        return {**asdict(self.usage), "usd": None if self.usd is None else round(self.usd, 8)}


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for a call that is under way: the most that it can cost."""

    model: str
    usd: float


class Prices:
    """Prices by model name."""

    def __init__(self, by_name: Mapping[str, Price]) -> None:
        self._by_name = dict(by_name)

    def of(self, model: str) -> Price | None:
        """The model's own price, or that of the longest name before a colon: `ft:gpt-x` for `ft:gpt-x:me::7`."""
        name = model
        while name not in self._by_name:
            name, colon, _ = name.rpartition(":")
            if not colon:
                return None
        return self._by_name[name]

    def cost(self, model: str, usage: Usage) -> float | None:
        """US dollars, or None where a price that is needed is unknown."""
        price = self.of(model)
        if price is None or (usage.n_training_tokens and price.training_usd is None):
            return None
        return (
            usage.n_prompt_tokens * price.input_usd
            + usage.n_completion_tokens * price.output_usd
            + usage.n_training_tokens * (price.training_usd or 0.0)
        ) / 1e6


@dataclass(slots=True)
class _Pending:
    rows: list[dict[str, Any]] = field(default_factory=list)
    n_taken: int = 0  # rows ever put here; a thread waits until so many are saved


class Ledger:
    """The paid answers of one stage's process; every method may be called from many threads."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        prices: Mapping[str, Price] | None = None,
        budget_usd: float | None = None,
        save: Callable[[Mapping[str, Spent]], None] | None = None,
    ) -> None:
        """`folder` None keeps in memory only; `save` is called after each write, with what was spent so far per model.

        `budget_usd` is what this stage may spend, what earlier tries of it have spent (it is in the folder) included.
        """
        self.prices = Prices(prices or {})
        self.budget_usd = budget_usd
        self._folder = folder
        self._save = save
        self._lock = threading.Condition()
        self._pending = _Pending()
        self._n_saved = 0
        self._is_saving = False
        self._answers: dict[str, Any] = {}
        self._usage: dict[str, Usage] = {}
        self._usd: dict[str, float | None] = {}
        self._reserved_usd = 0.0
        self._n_files = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._load(folder)

    @property
    def spent(self) -> dict[str, Spent]:
        """What was spent so far, by model; what earlier tries of the stage paid for is in it."""
        with self._lock:
            return {model: Spent(usage, self._usd[model]) for model, usage in self._usage.items()}

    def find(self, key: str) -> Any | None:
        """The answer that is kept under a key, as plain JSON."""
        with self._lock:
            return self._answers.get(key)

    def reserve(self, model: str, most: Usage) -> Reservation:
        """Set aside what a call can cost at most; ConfigError if that would exceed the budget, or cannot be known."""
        usd = self.prices.cost(model, most)
        with self._lock:
            if self.budget_usd is None:
                return Reservation(model, usd or 0.0)
            if usd is None:
                raise ConfigError(
                    f"there is a budget, but no price for {model}{' in training' if most.n_training_tokens else ''}",
                    where="spending.prices",
                    todo="Give its price, 0 where it costs nothing, or drop spending.budget_usd.",
                )
            so_far = sum(self._usd_or_zero())
            if so_far + self._reserved_usd + usd > self.budget_usd + ROUNDING_USD:
                raise ConfigError(
                    f"the next call to {model} may cost ${usd:.4f}, and ${so_far + self._reserved_usd:.4f} of the "
                    f"${self.budget_usd:.4f} that were left for this stage are spent or set aside for calls under way",
                    where="spending.budget_usd",
                    todo="What came is kept. Raise the budget, and run again to go on.",
                )
            self._reserved_usd += usd
            return Reservation(model, usd)

    def release(self, reservation: Reservation) -> None:
        """The call cost nothing: the service refused it."""
        with self._lock:
            self._reserved_usd -= reservation.usd if self.budget_usd is not None else 0.0

    def keep(self, key: str, answer: Any, reservation: Reservation, usage: Usage) -> None:
        """Keep an answer (plain JSON) and what it cost; returns when it is saved."""
        usd = self.prices.cost(reservation.model, usage)
        with self._lock:
            row = {
                "key": self._unused(key),
                "model": reservation.model,
                "usd": usd,
                "usage": asdict(usage),
                "answer": answer,
            }
            self._enter(row)
            self._pending.rows.append(row)
            self._pending.n_taken += 1
            ticket = self._pending.n_taken
        self.release(reservation)
        self._wait_until_saved(ticket)

    def save(self) -> None:
        """Save what the stage's scratch holds now; returns when it is in the store."""
        if self._save is not None:
            self._save(self.spent)

    def _unused(self, key: str) -> str:
        """The key, or one made of it: what was paid for twice costs twice, and the first answer stands."""
        n_paid, name = 1, key
        while name in self._answers:
            n_paid += 1
            name = f"{key}#{n_paid}"
        return name

    def _enter(self, row: Mapping[str, Any]) -> None:
        model, usd, usage = str(row["model"]), row["usd"], Usage(**row["usage"])
        if row["key"] in self._answers:
            return  # a file that was merged, and not yet deleted when the process ended
        if usd is None:  # its price may have become known since; else the budget would not see it
            usd = self.prices.cost(model, usage)
        self._answers[row["key"]] = row["answer"]
        before = self._usd.get(model, 0.0)
        self._usd[model] = None if before is None or usd is None else before + float(usd)
        self._usage[model] = self._usage.get(model, Usage()) + usage

    def _usd_or_zero(self) -> Iterable[float]:
        return (usd or 0.0 for usd in self._usd.values())

    def _wait_until_saved(self, ticket: int) -> None:
        with self._lock:
            while self._is_saving and self._n_saved < ticket:
                self._lock.wait()
            if self._n_saved >= ticket:
                return
            self._is_saving = True
            rows, self._pending.rows = self._pending.rows, []
            up_to = self._pending.n_taken
        try:
            self._write(rows)
        except BaseException:
            with self._lock:
                self._pending.rows[:0] = rows
                self._is_saving = False
                self._lock.notify_all()
            raise
        with self._lock:
            self._n_saved = up_to
            self._is_saving = False
            self._lock.notify_all()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self._folder is not None:
            _write_file(self._folder / f"0-{self._n_files:09d}.jsonl", rows)
            self._n_files += 1
            self._merge(self._folder, 0)
        if self._save is not None:
            self._save(self.spent)

    def _merge(self, folder: Path, level: int) -> None:
        """MERGED_FILES files of a level become one of the next: a row is copied once per level."""
        files = sorted(folder.glob(f"{level}-*.jsonl"))
        if len(files) < MERGED_FILES:
            return
        rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
        _write_file(folder / f"{level + 1}-{files[-1].name.partition('-')[2]}", rows)
        for path in files:
            path.unlink()
        self._merge(folder, level + 1)

    def _load(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.name.partition("-")[2]):
            self._n_files = max(self._n_files, int(path.stem.partition("-")[2]) + 1)
            for line in path.read_text(encoding="utf-8").splitlines():
                self._enter(json.loads(line))


def _write_file(path: Path, rows: list[dict[str, Any]]) -> None:
    """Whole or not at all, whenever the process is killed or the machine goes down."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())  # or after a crash of the machine the name may be there without the content
    partial.replace(path)
