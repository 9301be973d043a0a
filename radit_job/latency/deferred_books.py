"""The stage's ledger while a clock runs: nothing is remembered, and nothing is saved before the clock has stopped."""

from __future__ import annotations

import threading
import uuid
from typing import Any

from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger, Reservation


class DeferredBooks(Ledger):
    """The books of a ledger: its budget holds, and what is spent is entered into it by `settle`.

    An answer that was paid for before is not found: to find it would time nothing.
    """

    def __init__(self, books: Ledger) -> None:
        super().__init__(budget_usd=books.budget_usd)
        self.prices = books.prices
        self._books = books
        self._guard = threading.Lock()
        self._unsettled: list[tuple[Reservation, Usage]] = []

    def find(self, key: str) -> Any | None:
        """Nothing."""
        return None

    def reserve(self, model: str, most: Usage) -> Reservation:
        """See `Ledger`."""
        return self._books.reserve(model, most)

    def release(self, reservation: Reservation) -> None:
        """See `Ledger`."""
        self._books.release(reservation)

    def keep(self, key: str, answer: Any, reservation: Reservation, usage: Usage) -> None:
        """Count what an answer cost; the answer is not kept."""
        self.book(key, reservation, usage)

    def book(self, key: str, reservation: Reservation, usage: Usage) -> None:
        """Count it when `settle` is called next; its key does not matter."""
        with self._guard:
            self._unsettled.append((reservation, usage))

    def settle(self) -> None:
        """Enter what has come together into the books; returns when it is saved."""
        with self._guard:
            unsettled, self._unsettled = self._unsettled, []
        for reservation, usage in unsettled:
            self._books.book(f"timed/{uuid.uuid4().hex}", reservation, usage)
