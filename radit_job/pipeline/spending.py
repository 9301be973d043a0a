"""What a run has spent on paid services, and what it may spend yet. What is decided rests on the books in the store.

    runs/<run>/spent/<stage>-<key>[-<try>][-<shard>].json    a book: what one stage's process has spent so far

A book is written by the process whose money it was, at each saving of its answers. The books are the run's until all
of it is done, the stages behind an --until included; the next run under its name begins with none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from radit_job.config.models import Model
from radit_job.config.schema import Config
from radit_job.errors import ConfigError
from radit_job.models.cost import Price, Prices, Spent, Usage
from radit_job.pipeline.catalog import StageRow
from radit_job.pipeline.names import run_file, spent_file
from radit_job.pipeline.runs import RunRecord
from radit_job.report.spending import dollars
from radit_job.store import ObjectStore
from radit_job.store.parallel import in_parallel

Tally = dict[tuple[str, str], list[Spent]]  # by stage and model


@dataclass(frozen=True, slots=True)
class Book:
    """What one process of a stage has spent, by model, as long as its scratch folder goes back."""

    stage: str
    key: str
    nth_try: str = ""
    shard: int = 0
    n_shards: int = 1
    n_lost: int = 0  # which of the process's lost ledgers it tells of; 0: the one in use
    spent: Mapping[str, Spent] = field(default_factory=dict)

    def name(self, run: str) -> str:
        """Where it stands in the store."""
        parts = [self.nth_try, f"{self.shard}-of-{self.n_shards}" if self.n_shards > 1 else ""]
        parts.append(f"lost-{self.n_lost}" if self.n_lost else "")
        return spent_file(run, self.stage, self.key, "".join(f"-{part}" for part in parts if part))

    def shares_with(self, other: Book) -> bool:
        """Whether both are of the same try, whose shards share its money."""
        return not (self.n_lost or other.n_lost) and self._try() == other._try()

    def _try(self) -> tuple[str, str, str, int]:
        return (self.stage, self.key, self.nth_try, self.n_shards)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**plain, "spent": {model: item.to_json() for model, item in self.spent.items()}}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Book:
        """The inverse of `to_json`."""
        return cls(**{**plain, "spent": {model: spent_from_json(item) for model, item in plain["spent"].items()}})


def spent_from_json(plain: Mapping[str, Any]) -> Spent:
    """The inverse of `Spent.to_json`."""
    return Spent(Usage(**{item.name: plain.get(item.name, 0) for item in fields(Usage)}), plain.get("usd"))


def write_book(store: ObjectStore, run: str, book: Book) -> None:
    """Put a book into the store, in place of what it said before."""
    store.write(book.name(run), json.dumps(book.to_json(), indent=1).encode())


def read_books(store: ObjectStore, run: str, stage: str = "") -> list[Book]:
    """All books of a run, or those of a stage."""
    names = [info.name for info in store.list(run_file(run, f"spent/{stage}"))]
    found = [data for data in in_parallel(store.read, names) if data is not None]
    books = [Book.from_json(json.loads(data)) for data in found]
    return [book for book in books if stage in ("", book.stage)]


def drop_books(store: ObjectStore, run: str) -> None:
    """Begin anew: what was spent under this name is a run's that has ended."""
    for info in store.list(run_file(run, "spent/")):
        store.delete(info.name)


def paid_models(row: StageRow, config: Config) -> list[Model]:
    """The served models that a stage may call, each of which may cost money."""
    if not row.pays:
        return []
    sees = row.sees.of(config)
    models = [getattr(sees, name) for name in row.models]
    return [model for model in models if model is not None and model.provider == "openai"]


def prices_of(config: Config) -> dict[str, dict[str, Any]]:
    """The configured prices as plain values, as a JobSpec carries them."""
    return {name: price.model_dump(mode="json") for name, price in config.spending.prices.items()}


def left_usd(row: StageRow, key: str, config: Config, books: Iterable[Book]) -> float | None:
    """What a stage may spend: the run's budget without what its other stages have spent; None: no limit.

    What earlier tries of the same key have spent is not taken off here: the stage's own process does that, for it
    knows which of them it goes on from. ConfigError where an earlier try used a model that has no price.
    """
    budget_usd = config.spending.budget_usd
    if budget_usd is None or not paid_models(row, config):
        return None
    prices = Prices({name: Price(**plain) for name, plain in prices_of(config).items()})
    others = [book for book in books if (book.stage, book.key) != (row.name, key)]
    return max(0.0, budget_usd - total_usd(others, prices))


def left_for_process(budget_usd: float | None, own: Book, books: Iterable[Book], prices: Prices) -> float | None:
    """What one process of a stage may spend: its share of what earlier tries under the stage's key have left."""
    if budget_usd is None:
        return None
    same_key = [book for book in books if (book.stage, book.key) == (own.stage, own.key)]
    earlier_usd = total_usd([book for book in same_key if not book.shares_with(own)], prices)
    return max(0.0, budget_usd - earlier_usd) / own.n_shards


def lost_book(own: Book, before: Book | None, n_lost: int) -> Book | None:
    """The book of what a ledger no longer holds, to be kept beside the one in use; None where nothing was lost.

    `before`: what the process's book said last; `own`: what its ledger holds now, of which none is lost. What a
    call in training costs may have become less, at its end; the number of calls never does.
    """
    lost: dict[str, Spent] = {}
    for model, item in (before.spent if before else {}).items():
        now = own.spent.get(model, Spent(Usage(), 0.0))
        if now.usage.n_calls < item.usage.n_calls:
            lost[model] = _difference(item, now)
    return replace(own, n_lost=n_lost + 1, spent=lost) if lost else None


def total_usd(books: Iterable[Book], prices: Prices) -> float:
    """US dollars; what had no price when it was spent is priced now, or a ConfigError."""
    total = 0.0
    for book in books:
        for model, item in book.spent.items():
            usd = prices.cost(model, item.usage) if item.usd is None else item.usd
            if usd is None:
                raise ConfigError(
                    f"there is a budget, but this run has called {model}, whose price is unknown, already",
                    where="spending.prices",
                    todo="Give its price, or begin a run under another name (--name).",
                )
            total += usd
    return total


# What a run tells of it


def summary(record: RunRecord, books: Sequence[Book]) -> dict[str, Any]:
    """What results.json says under `spent`: what this run paid, and what its cached artifacts cost when they were made.

    `usd` is None as soon as one price is unknown; `known_usd` is the part that is known.
    """
    now: Tally = {}
    for book in books:
        for model, item in book.spent.items():
            now.setdefault((book.stage, model), []).append(item)
    with_books = {(book.stage, book.key) for book in books}
    then: Tally = {}
    for stage in record.stages.values():
        if stage.status in ("done", "cached") and (stage.stage, stage.key) not in with_books:
            for model, plain in (stage.spent or {}).items():
                then.setdefault((stage.stage, model), []).append(spent_from_json(plain))
    paid = [item for items in now.values() for item in items]
    order = {name: number for number, name in enumerate(record.stages)}
    rows = [(key, items, True) for key, items in now.items()] + [(key, items, False) for key, items in then.items()]
    rows.sort(key=lambda row: (order.get(row[0][0], len(order)), not row[2], row[0][1]))
    return {
        "usd": _sum_usd(paid),
        "known_usd": round(sum(item.usd or 0.0 for item in paid), 8),
        "budget_usd": record.budget_usd,
        "stages": [
            {"stage": stage, "model": model, **_sum(items).to_json(), "now": is_now}
            for (stage, model), items, is_now in rows
        ],
    }


def spent_line(spent: Mapping[str, Any]) -> str:
    """The summary as one line for people; empty where nothing was or had been paid for."""
    rows = spent["stages"]
    if not rows:
        return ""
    n_calls = sum(row["n_calls"] for row in rows if row["now"])
    of = "" if spent["budget_usd"] is None else f" of {dollars(spent['budget_usd'])}"
    calls = f"({n_calls} call{'' if n_calls == 1 else 's'})"
    if spent["usd"] is None:
        unpriced = sorted({row["model"] for row in rows if row["now"] and row["usd"] is None})
        known = f", {dollars(spent['known_usd'])} of it known" if spent["known_usd"] else ""
        return f"Spent: an unknown sum{of}{known}: no price for {', '.join(unpriced)} {calls}"
    cached = [row["usd"] for row in rows if not row["now"]]
    if not cached:
        return f"Spent: {dollars(spent['usd'])}{of} {calls}"
    earlier = "an unknown sum" if None in cached else dollars(sum(cached))
    return f"Spent: {dollars(spent['usd'])}{of} {calls}; what was reused had cost {earlier}"


def _difference(before: Spent, now: Spent) -> Spent:
    usage = Usage(*(max(0, getattr(before.usage, item.name) - getattr(now.usage, item.name)) for item in fields(Usage)))
    if before.usd is None or now.usd is None:
        return Spent(usage, None)  # a price that has become known since prices it
    return Spent(usage, max(0.0, before.usd - now.usd))


def _sum(items: Sequence[Spent]) -> Spent:
    return Spent(sum((item.usage for item in items), Usage()), _sum_usd(items))


def _sum_usd(items: Sequence[Spent]) -> float | None:
    known = [item.usd for item in items if item.usd is not None]
    return round(sum(known), 8) if len(known) == len(items) else None
