"""report: what was run and what came out, as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radit_job import observe
from radit_job.config.slices import ReportSlice
from radit_job.rag.grouping import group_names, passage
from radit_job.records import (
    CandidateScores,
    Chunk,
    DocumentRow,
    Dropped,
    Prediction,
    Question,
    Score,
    read_blocks,
    read_rows,
)
from radit_job.report.page import Material, render
from radit_job.report.provenance import joined_summary


def run(
    config: ReportSlice,
    *,
    chunks: Path,
    questions: Path,
    train_questions: Path,
    val_questions: Path,
    predictions: Path,
    scores: Path,
    results: Path,
    out: Path,
    scratch: Path,
    lm: Path | None = None,
    lm_scores: Path | None = None,
    retriever: Path | None = None,
    latency: Path | None = None,
    lineage: Sequence[dict[str, Any]] = (),
) -> dict[str, float]:
    """Write `report/report.html`; returns its size and how many answers it shows."""
    rows = list(read_blocks(predictions, "*.jsonl", Prediction))
    train, val = (list(read_rows(side / "questions.jsonl", Question)) for side in (train_questions, val_questions))
    page = render(
        Material(
            results=_json(results / "results.json"),
            documents=list(read_rows(chunks / "documents.jsonl", DocumentRow)),
            dropped=read_blocks(questions, "*/dropped.jsonl", Dropped),
            questions_summary={
                **joined_summary([_json(path) for path in sorted(questions.glob("*/summary.json"))]),
                "n_documents": len({row.document for row in [*train, *val] if row.document}),
            },
            n_questions={"train": len(train), "val": len(val)},
            n_passages=len(set(group_names(val))),
            n_unknown_passages=sum(not passage(question) for question in val),
            training=_json(lm / "training.json") if lm else None,
            retriever_training=_json(retriever / "training.json") if retriever else None,
            lm_scores=read_blocks(lm_scores, "*.jsonl", CandidateScores) if lm_scores else (),
            predictions=rows,
            scores=read_rows(scores / "scores.jsonl", Score),
            pages=_pages(chunks / "chunks.jsonl", {chunk for row in rows for chunk in row.chunk_ids}),
            lineage=lineage,
            settings=config.model_dump(),
            latency=_json(latency / "latency.json") if latency else None,
        )
    )
    target = out / "report" / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    n_bytes = target.stat().st_size
    observe.log("the report is written", n_bytes=n_bytes)
    return {"n_bytes": n_bytes, "n_answers": len(rows)}


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _pages(path: Path, wanted: set[str]) -> dict[str, int | None]:
    """The page of each wanted chunk; the chunks are streamed, because a corpus may not fit the memory."""
    if not wanted or not path.exists():
        return {}
    with observe.progress("pages of the retrieved chunks", unit="chunks") as bar:
        found: dict[str, int | None] = {}
        for chunk in read_rows(path, Chunk):
            bar.advance()
            if chunk.chunk_id in wanted:
                found[chunk.chunk_id] = chunk.page
        return found
