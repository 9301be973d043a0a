"""What the run's calls to paid services cost, by stage and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COUNTS = ("n_calls", "n_prompt_tokens", "n_completion_tokens", "n_training_tokens")


def spending(lineage: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The rows of the table and their total; None where nothing was spent.

    A total is of what has a price; `has_unknown` tells that some has none.
    """
    rows = [
        {"stage": item["stage"], "model": model, "run": item.get("run"), "cost": dollars(spent.get("usd")), **spent}
        for item in lineage
        for model, spent in (item.get("spent") or {}).items()
    ]
    if not rows:
        return None
    known = [row["usd"] for row in rows if row.get("usd") is not None]
    has_unknown = len(known) < len(rows)
    total = {name: sum(row.get(name) or 0 for row in rows) for name in COUNTS}
    return {
        "rows": rows,
        "total": total,
        "cost": _total(known, has_unknown=has_unknown),
        "has_unknown": has_unknown,
        "has_training": bool(total["n_training_tokens"]),
    }


def _total(known: Iterable[float], *, has_unknown: bool) -> str:
    known = list(known)
    if not has_unknown:
        return dollars(sum(known))
    return f"{dollars(sum(known))} and an unknown sum" if known else "unknown"


def dollars(usd: float | None) -> str:
    """`$0.0042`, `$12.30`, `< $0.0001`; unknown where there is no price."""
    if usd is None:
        return "unknown"
    if 0 < usd < 0.0001:
        return "< $0.0001"
    return f"${usd:,.2f}" if usd == 0 or usd >= 1 else f"${usd:.4f}"
