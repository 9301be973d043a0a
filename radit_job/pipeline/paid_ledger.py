"""The ledger of one stage's process, as its scratch folder and the run's books have it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from radit_job.errors import StoreError
from radit_job.jobs import JobSpec
from radit_job.models.cost import Price, Spent
from radit_job.models.ledger import Ledger
from radit_job.pipeline.runs import spec_keys
from radit_job.pipeline.spending import Book, left_for_process, lost_book, read_books, write_book
from radit_job.store import ObjectStore
from radit_job.store.scratch import saved_files

PAID = "paid"  # the ledger's folder in a stage's scratch
KEEP_TRIES = 10  # the folder may change while it is looked at
KEEP_PAUSE_S = 0.1


def open_ledger(
    store: ObjectStore, spec: JobSpec, own: Book, scratch_name: str, scratch: Path, earlier: Path
) -> Ledger:
    """What the stage's paid calls gave so far; each further answer is in the store before its call returns.

    `own` is the process's book, with nothing in it. `earlier` is a folder for what the run's other settings of this
    stage paid for and never came to use.
    """

    def save(spent: Mapping[str, Spent]) -> None:
        keep_surely(store, scratch_name)
        write_book(store, spec.run, replace(own, spent=spent))

    prices = {model: Price(**plain) for model, plain in spec.prices.items()}
    unused = [] if spec.replace else _earlier_answers(store, spec, earlier)
    ledger = Ledger(scratch / PAID, prices=prices, save=save, earlier=unused)
    books = read_books(store, spec.run, spec.stage)
    of_process = [book for book in books if replace(book, spent={}, n_lost=0) == replace(own, spent={})]
    before = next((book for book in of_process if not book.n_lost), None)
    lost = lost_book(replace(own, spent=ledger.spent), before, sum(book.n_lost > 0 for book in of_process))
    if lost is not None:
        write_book(store, spec.run, lost)
        books.append(lost)
    if lost is not None or ledger.spent:
        write_book(store, spec.run, replace(own, spent=ledger.spent))
    ledger.budget_usd = left_for_process(spec.budget_usd, own, books, ledger.prices)
    return ledger


def _earlier_answers(store: ObjectStore, spec: JobSpec, into: Path) -> list[Path]:
    """The ledgers of this run's tries of this stage that failed or were stopped under other settings.

    A setting that made the stage fail is changed, and most of its requests are the same as before.
    """
    found: set[Path] = set()
    for key in spec_keys(store, spec.run, spec.stage) - {spec.key}:
        for folder, path, name in saved_files(store, f"{spec.stage}/{key}"):
            if Path(path).parent == Path(PAID) and path.endswith(".jsonl"):
                ledger = into / Path(folder).name
                ledger.mkdir(parents=True, exist_ok=True)
                store.download(name, ledger / Path(path).name)
                found.add(ledger)
    return sorted(found)


def keep_surely(store: ObjectStore, scratch_name: str) -> None:
    """Save the scratch folder; StoreError where that fails, for what was paid for must not be lost silently."""
    for _ in range(KEEP_TRIES):
        if store.keep_scratch(scratch_name):
            return
        time.sleep(KEEP_PAUSE_S)
    raise StoreError("paid answers could not be saved: the scratch folder never stood still", where=store.url)
