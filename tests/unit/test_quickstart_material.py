"""The quickstart's own document and questions: well-formed, in step with each other and with the configuration."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pymupdf
import pytest
from pydantic import BaseModel

from radit_job.config.schema import Config

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
# The handbook is a corpus with measured figures: a longer one would be another, so it does not tell of served models,
# nor of the retriever half and of training on several machines.
LEFT_OUT = {
    "questions.writing",
    "questions.check",
    "questions.max_similarity",
    "retrieval.topic",
    "retrieval.temperature",
    "questions.unanswerable",
    "finetune_lm.context",
    "finetune_lm.examples",
    "finetune_lm.nodes",
    "finetune_lm.processes_per_node",
    "finetune_retriever",
    "evaluate.judge_repeats",
    "evaluate.judge_max_tokens",
    "spending",
}


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("•", " ")).strip()


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_render", QUICKSTART / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    return [json.loads(line) for line in (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def body_text(pdf: pymupdf.Document, renderer: ModuleType) -> str:
    """The text without page numbers, with ligatures spelt out."""
    return one_line(" ".join(page.get_text(clip=renderer.BODY, flags=0) for page in pdf))


@pytest.fixture(scope="module")
def handbook(renderer: ModuleType) -> str:
    with pymupdf.open(QUICKSTART / "handbook.pdf") as pdf:
        assert len(pdf) >= 15
        return body_text(pdf, renderer)


def test_pairs_are_well_formed(pairs: list[dict[str, str]]) -> None:
    assert len(pairs) >= 120
    for pair in pairs:
        assert set(pair) == {"question", "answer", "context"}
        assert all(value and value == value.strip() for value in pair.values()), pair
        assert pair["question"].endswith("?"), pair
        assert len(pair["answer"].split()) <= 20, pair


def test_no_question_stands_twice(pairs: list[dict[str, str]]) -> None:
    questions = [pair["question"].lower() for pair in pairs]
    assert sorted(set(questions)) == sorted(questions)


def test_no_question_holds_its_answer(pairs: list[dict[str, str]]) -> None:
    given_away = [pair for pair in pairs if re.search(rf"(?<!\w){re.escape(pair['answer'])}(?!\w)", pair["question"])]
    assert given_away == []


def test_every_context_stands_in_the_pdf(pairs: list[dict[str, str]], handbook: str) -> None:
    assert [pair["context"] for pair in pairs if one_line(pair["context"]) not in handbook] == []


def test_answers_come_from_their_contexts(pairs: list[dict[str, str]]) -> None:
    for pair in pairs:
        words = set(re.findall(r"\w{4,}|\d+", pair["answer"].lower()))
        found = {word for word in words if word in pair["context"].lower()}
        assert len(found) >= 0.6 * len(words), pair


def test_the_pdf_is_up_to_date(handbook: str, renderer: ModuleType) -> None:
    rendered = renderer.render((QUICKSTART / "handbook.md").read_text(encoding="utf-8"))
    with pymupdf.open("pdf", rendered) as pdf:
        assert body_text(pdf, renderer) == handbook, "run `python examples/quickstart/render.py`"


def settings(section: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted path, default) of every field that is a value; the sections of `models` share one description.

    The handbook is the quickstart's corpus, and describes a run; how it is spread over a cluster is the README's, and
    how the latency of queries is measured stands in docs/latency.md.
    """
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if prefix + name in ("kubernetes", "benchmark") or prefix + name in LEFT_OUT:
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += settings(kind, f"{prefix}{name}.") if not prefix else []
        elif prefix != "models.":
            found.append((prefix + name, field.default))
    return found


@pytest.mark.parametrize(("path", "default"), settings(Config))
def test_the_handbook_states_every_setting_with_its_default(path: str, default: Any) -> None:
    text = (QUICKSTART / "handbook.md").read_text(encoding="utf-8")
    entries = [line for line in text.splitlines() if line.startswith(f"- `{path}`")]
    assert len(entries) == 1, f"one entry for {path}"
    if isinstance(default, int | float):
        assert entries[0].startswith(f"- `{path}`, default {default}:"), f"{path} is {default} by default"
