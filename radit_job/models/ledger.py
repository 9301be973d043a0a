"""What paid calls gave and cost: kept as it arrives, and held against a budget.

Each call's thread returns only when its answer is saved. The threads that come meanwhile wait together, and one of
them saves for all (group commit), so that saving never queues up behind the service.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radit_job.errors import ConfigError
from radit_job.models.cost import Price, Prices, Spent, Usage
from radit_job.models.row_files import Row, RowFiles

ROUNDING_USD = 1e-9  # what sums of many small floats may be off by


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for a call that is under way: the most that it can cost."""

    model: str
    usd: float


@dataclass(slots=True)
class _Pending:
    rows: list[Row] = field(default_factory=list)
    n_taken: int = 0  # savings ever asked for; a thread waits until its own is done


class Ledger:
    """The paid answers of one stage's process; every method may be called from many threads."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        prices: Mapping[str, Price] | None = None,
        budget_usd: float | None = None,
        save: Callable[[Mapping[str, Spent]], None] | None = None,
        earlier: Sequence[Path] = (),
    ) -> None:
        """`folder` None keeps in memory only; `save` is called after each write, with what was spent so far per model.

        `budget_usd` is what this stage may spend, what earlier tries of it have spent (it is in the folder) included.
        `earlier` are folders of other ledgers: their answers are found, and their cost is in other books.
        """
        self.prices = Prices(prices or {})
        self.budget_usd = budget_usd
        self._save = save
        self._lock = threading.Condition()
        self._pending = _Pending()
        self._n_saved = 0
        self._is_saving = False
        self._closed: set[str] = set()  # keys whose answer is kept
        self._answers: dict[str, Any] = {}  # those of them that are in no file
        self._spent: dict[str, Spent] = {}  # by model: for what is closed
        self._open: dict[str, tuple[str, Spent]] = {}  # model and cost by key: for what has no answer, or none yet
        self._reserved_usd = 0.0
        self._files = None if folder is None else RowFiles(folder)
        if self._files is not None:
            for row in self._files.rows():
                self._enter(row)
        self._earlier: dict[str, RowFiles] = {}
        for other in map(RowFiles, earlier):
            self._earlier |= {row["key"]: other for row in other.rows() if not row.get("is_open")}

    @property
    def spent(self) -> dict[str, Spent]:
        """What was spent so far, by model; what earlier tries of the stage paid for is in it."""
        with self._lock:
            spent = dict(self._spent)
            for model, item in self._open.values():
                spent[model] = spent[model] + item if model in spent else item
            return spent

    def find(self, key: str) -> Any | None:
        """The answer that is kept under a key, as plain JSON."""
        with self._lock:
            if key not in self._closed:
                return self._earlier[key].read(key)["answer"] if key in self._earlier else None
            if key in self._answers or self._files is None:
                return self._answers[key]
            return self._files.read(key)["answer"]

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
            so_far_usd = sum(item.usd or 0.0 for item in self.spent.values()) + self._reserved_usd
            if so_far_usd + usd > self.budget_usd + ROUNDING_USD:
                raise ConfigError(
                    f"the next call to {model} may cost ${usd:.4f}, and ${so_far_usd:.4f} of the "
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
        """Keep an answer (plain JSON) and what it cost; returns when it is saved.

        It takes the place of what was booked under its key.
        """
        with self._lock:
            ticket = self._take(self._row(self._unused(key), answer, reservation, usage))
        self._wait_until_saved(ticket)

    def book(self, key: str, reservation: Reservation, usage: Usage) -> None:
        """Count what is being, or may have been, charged and has no answer; returns when it is saved.

        `find` does not find it. Booked again under its key it is replaced, and so it is by the answer that is kept.
        """
        with self._lock:
            ticket = self._take({**self._row(key, None, reservation, usage), "is_open": True})
        self._wait_until_saved(ticket)

    def save(self) -> None:
        """Save what the stage's scratch holds now; returns when it is in the store."""
        with self._lock:
            self._pending.n_taken += 1
            ticket = self._pending.n_taken
        self._wait_until_saved(ticket)

    def _row(self, key: str, answer: Any, reservation: Reservation, usage: Usage) -> Row:
        model, usd = reservation.model, self.prices.cost(reservation.model, usage)
        self.release(reservation)
        return {"key": key, "model": model, "usd": usd, "usage": asdict(usage), "answer": answer}

    def _take(self, row: Row) -> int:
        """Count a row, and have it written with the next ones; the number of the saving to wait for."""
        if self._enter(row):
            if row["key"] in self._closed:
                self._answers[row["key"]] = row["answer"]
            self._pending.rows.append(row)
        self._pending.n_taken += 1
        return self._pending.n_taken

    def _unused(self, key: str) -> str:
        """The key, or one made of it: what was paid for twice costs twice, and the first answer stands."""
        n_paid, name = 1, key
        while name in self._closed:
            n_paid += 1
            name = f"{key}#{n_paid}"
        return name

    def _enter(self, row: Row) -> bool:
        """Count a row; False if it says nothing new."""
        key, model, usd, usage = row["key"], str(row["model"]), row["usd"], Usage(**row["usage"])
        if key in self._closed:
            return False  # a file that was merged, and not yet deleted when the process ended
        if usd is None:  # its price may have become known since; else the budget would not see it
            usd = self.prices.cost(model, usage)
        item = Spent(usage, None if usd is None else float(usd))
        if row.get("is_open"):
            self._open[key] = (model, item)
            return True
        self._open.pop(key, None)
        self._closed.add(key)
        self._spent[model] = self._spent[model] + item if model in self._spent else item
        return True

    def _wait_until_saved(self, ticket: int) -> None:
        with self._lock:
            while self._is_saving and self._n_saved < ticket:
                self._lock.wait()
            if self._n_saved >= ticket:
                return
            self._is_saving = True
            rows, self._pending.rows = self._pending.rows, []
            # Both now: what others enter meanwhile is in no file when `save` is told what was spent.
            up_to, spent = self._pending.n_taken, self.spent
        try:
            self._write(rows, spent)
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

    def _write(self, rows: list[Row], spent: Mapping[str, Spent]) -> None:
        if self._files is not None and rows:
            self._files.append(rows)
        if self._save is not None:
            self._save(spent)
        if self._files is not None:
            with self._lock:
                for row in rows:
                    self._answers.pop(row["key"], None)
