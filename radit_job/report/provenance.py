"""Where the numbers come from: what was lost on the way, which stages computed them, with what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radit_job.records import DocumentRow, Dropped, Prediction
from radit_job.report.training import is_by_api

DROPPED_SHOWN = 20  # examples per reason; the counts are complete


def losses(
    documents: Sequence[DocumentRow],
    dropped: Iterable[Dropped],
    training: Mapping[str, Any] | None,
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """What went in and did not come through: documents, pairs, context; a reason has a few examples and its count."""
    by_reason: dict[str, list[Dropped]] = {}
    counts: Counter[str] = Counter()
    for row in dropped:
        counts[row.reason] += 1
        if counts[row.reason] <= DROPPED_SHOWN:
            by_reason.setdefault(row.reason, []).append(row)
    return {
        "documents": [row for row in documents if row.status == "skipped"],
        "n_dropped": counts.total(),
        "pairs": [
            {"reason": reason.replace("_", " "), "count": count, "examples": by_reason[reason]}
            for reason, count in counts.most_common()
        ],
        "n_truncated": (training or {}).get("n_truncated"),
        "n_examples_dropped": (training or {}).get("n_dropped"),
        "is_by_api": is_by_api(training),
        "summary": {_count_name(key): value for key, value in summary.items() if _is_plain(value)},
    }


@dataclass(frozen=True, slots=True)
class Leak:
    """A question that stands with its answer as a record in the corpus itself."""

    question: str  # its text, or its id where no arm answered it
    chunk_id: str
    is_held_out: bool


def leaks(summary: Mapping[str, Any], predictions: Iterable[Prediction]) -> list[Leak]:
    """The leaked questions that generate found, held-out ones first."""
    held_out = {row.question_id: row.question for row in predictions if row.split == "val"}
    found = [
        Leak(held_out.get(name, name), chunk, name in held_out)
        for name, chunk in (summary.get("leaked_in") or {}).items()
    ]
    return sorted(found, key=lambda leak: not leak.is_held_out)


def joined_summary(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One summary for those of all blocks of questions: numbers are summed, lists and tables put together."""
    joined: dict[str, Any] = {}
    for summary in summaries:
        for name, value in summary.items():
            if isinstance(value, dict):
                table = joined.setdefault(name, {})
                table.update({key: _sum(table.get(key), item) for key, item in value.items()})
            else:
                joined[name] = _sum(joined.get(name), value)
    return joined


def _sum(before: Any, value: Any) -> Any:
    return value if before is None or isinstance(value, str) else before + value


def _count_name(name: str) -> str:
    return name.removeprefix("n_").replace("_", " ")


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def stages(lineage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each stage with its key, inputs and artifacts, its time beside the longest one's, memory and counters."""
    longest = max((item.get("seconds") or 0.0 for item in lineage), default=0.0) or 1.0
    return [
        {
            "stage": item["stage"],
            "key": item["key"],
            "inputs": item.get("inputs", []),
            "artifacts": item.get("artifacts", []),
            "seconds": item.get("seconds"),
            "share_of_longest": (item.get("seconds") or 0.0) / longest,
            "peak_memory_gib": item.get("peak_memory_gib"),
            "counters": {
                _count_name(name): value for name, value in (item.get("counters") or {}).items() if _is_plain(value)
            },
            "run": item.get("run"),
            "finished_at": (item.get("finished_at") or "").replace("T", " ").replace("Z", " UTC"),
        }
        for item in lineage
    ]


def versions(lineage: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(package, version); all versions where stages that were computed at different times had different ones."""
    found: dict[str, dict[str, None]] = {}
    for item in lineage:
        for package, version in (item.get("versions") or {}).items():
            found.setdefault(package, {})[str(version)] = None
    return sorted((package, ", ".join(versions)) for package, versions in found.items())
