"""A bench for each test of finetune_lm with a fine-tuning API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from radit_job import observe
from radit_job.records import write_rows
from tests.servers.openai_server import openai_server
from tests.stages.tuning_bench import N_ROWS, Bench, example


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("examples", "out", "scratch"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "examples/examples.jsonl", map(example, range(N_ROWS)))
    told: list[dict[str, Any]] = []
    observe.send_events_to(told.append)
    with openai_server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        yield Bench(tmp_path, server, told)
