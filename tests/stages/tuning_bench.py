"""The folders of the stage finetune_lm, a service beside it, and what the stage told; for its tests over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from radit_job.config.models import Model
from radit_job.config.schema import FinetuneLM
from radit_job.config.slices import FinetuneLMSlice
from radit_job.errors import RaditError
from radit_job.models.cost import Price
from radit_job.models.ledger import Ledger
from radit_job.records import Example, Message
from radit_job.stages.finetune_lm import run
from radit_job.training.api_order import JobRecord
from tests.servers.openai_server import OpenAIServer

N_ROWS = 60
MODEL = "gpt-4o-mini"


def example(number: int, answer: str = "In room {}.") -> Example:
    question = f"Where is box {number}?"
    messages = (
        Message("system", "Answer."),
        Message("user", f"Box {number} is in room {number % 5}.\nQuery: {question}"),
        Message("assistant", answer.format(number % 5)),
    )
    return Example(f"q{number}", question, f"chunk{number // 2}", (f"chunk{number // 2}",), (0.5,), True, messages)


@dataclass
class Bench:
    """One stage's folders, the service, and what the stage told."""

    folder: Path
    server: OpenAIServer
    told: list[dict[str, Any]]

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def lm(self) -> Path:
        return self.folder / "out/lm"

    @property
    def messages(self) -> list[str]:
        return [str(event.get("message")) for event in self.told]

    def ledger(self, budget_usd: float | None = None) -> Ledger:
        prices = {MODEL: Price(1.0, 1.0, 25.0)}
        return Ledger(self.scratch / "paid", prices=prices, budget_usd=budget_usd)

    def tune(
        self, *, lm: dict[str, Any] | None = None, ledger: Ledger | None = None, dev_share: float = 0.2, **api: Any
    ) -> dict[str, float]:
        served = {"provider": "openai", "name": MODEL, "base_url": self.server.url, "api_key_env": "OPENAI_API_KEY"}
        model = {**served, "patience_s": 10, **(lm or {})}
        tuning = FinetuneLM(engine="openai", dev_share=dev_share, api={"poll_s": 0.01, **api})
        config = FinetuneLMSlice(seed=7, lm=Model(**model).model_dump(), finetune_lm=tuning.model_dump())
        ledger = ledger or self.ledger()
        return run(
            config, examples=self.folder / "examples", out=self.folder / "out", scratch=self.scratch, ledger=ledger
        )

    def refused(self, kind: type[RaditError], **settings: Any) -> str:
        """The message of a run that must fail; no key in it."""
        with pytest.raises(kind) as caught:
            self.tune(**settings)
        assert type(caught.value) is kind
        said = str(caught.value) + repr(self.told)
        assert self.server.key not in said
        return str(caught.value).replace(self.server.url, "URL")

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return self.server.jobs.peek()

    @property
    def n_ordered(self) -> int:
        return self.server.billed["fine_tuning.jobs"]

    @property
    def ordered(self) -> JobRecord | None:
        return JobRecord.load(self.scratch)


def eventually(found: Callable[[], Any], within_s: float = 10.0) -> None:
    until_s = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def meanwhile(condition: Callable[[], Any], act: Callable[[], Any]) -> threading.Thread:
    """Do something beside the stage, when it is so far."""

    def wait_and_act() -> None:
        eventually(condition)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread
