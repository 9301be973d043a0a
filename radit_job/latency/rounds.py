"""The rounds: every engine is asked every task at every number of clients, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from radit_job import observe
from radit_job.latency.base import TASKS, Engine, Task, Timed


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked how often."""

    questions: Sequence[str]  # as many as the largest number of clients needs
    n_questions: int  # that are timed where fewer clients ask
    concurrency: Sequence[int]  # none larger than there are questions
    warmup: int  # rounds
    repetitions: int  # rounds that count


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that came at the same moment, and what came of them."""

    engine: str
    task: Task
    concurrency: int
    repetition: int
    questions: Sequence[str]
    timed: Sequence[Timed]


def n_asked(n_questions: int, concurrency: int, n_available: int) -> int:
    """How many different questions so many clients ask in a round: each client as many as any other; 0: too few."""
    wanted = -(-max(n_questions, concurrency) // concurrency) * concurrency
    return min(wanted, n_available // concurrency * concurrency)


def run_rounds(engines: Sequence[Engine], plan: Plan, behind: Callable[[], None]) -> list[Group]:
    """All groups that count, in the order in which they were asked.

    The engines take turns group by group, and who begins changes from round to round, so that a machine that slows
    down hurts them alike. A warm-up asks each task once at each number of clients. A serial engine's clients stand in
    line behind queries that the rounds with the fewest clients repeat: with more clients it is asked in one round.
    `behind` is called after each group, whatever came of it, when no clock runs.
    """
    rounds = [_of_round(engines, plan, number) for number in range(plan.warmup + plan.repetitions)]
    total = sum(len(questions) for asked in rounds for _, _, _, questions in asked)
    kept: list[Group] = []
    with observe.progress("timing queries", total=total, unit="questions") as bar:
        for number, asked in enumerate(rounds, start=-plan.warmup):
            for engine, task, n_clients, questions in asked:
                bar.advance(0, engine=engine.name, task=task, clients=n_clients)
                try:
                    timed = engine.ask(task, questions)
                finally:
                    behind()
                bar.advance(len(questions))
                if number >= 0:
                    kept.append(Group(engine.name, task, n_clients, number, questions, timed))
    return kept


def _of_round(engines: Sequence[Engine], plan: Plan, number: int) -> list[tuple[Engine, Task, int, Sequence[str]]]:
    is_warmup, is_first = number < plan.warmup, number == plan.warmup
    turn = number % len(engines)
    return [
        (engine, task, n_clients, questions)
        for task, n_clients, questions in _asked(plan, only_first=is_warmup)
        for engine in [*engines[turn:], *engines[:turn]]
        if is_first or not engine.is_serial or n_clients == min(plan.concurrency)
    ]


def _asked(plan: Plan, *, only_first: bool) -> Iterator[tuple[Task, int, Sequence[str]]]:
    """What comes at the same moment, one after the other."""
    for task in TASKS:
        for n_clients in plan.concurrency:
            n = n_clients if only_first else n_asked(plan.n_questions, n_clients, len(plan.questions))
            for start in range(0, n, n_clients):
                yield task, n_clients, plan.questions[start : start + n_clients]
