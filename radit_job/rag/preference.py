"""Which of two answers a judge prefers, asked in both orders: a verdict that depends on the order is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from radit_job.rag.judging import Judge, Judged, Judgement, preference_prompt
from radit_job.rag.verdicts import read_cut_preference, read_preference

TIE = 0.5


@dataclass(frozen=True, slots=True)
class Preference:
    """One answer against another."""

    judgement: Judgement  # 1: it is better; 0: the other one is; 0.5: a tie, or the orders disagree
    outcome: Literal["win", "loss", "tie", "inconsistent", "failed"]
    verdicts: tuple[float, ...] = ()  # of each order, for the answer that stood first: 1, 0.5 or 0


EQUAL = Preference(Judgement(TIE), "tie")


def preferences(judge: Judge, pairs: Sequence[tuple[Judged, Judged]]) -> list[Preference]:
    """Each pair's first answer against its second; equal answers are a tie, and nobody is asked.

    Where the orders disagree it is 0.5, also where one of them is a tie (LlamaIndex's PairwiseComparisonEvaluator takes
    the other one's side then).
    """
    differing = [number for number, (mine, other) in enumerate(pairs) if mine.answer.strip() != other.answer.strip()]
    orders = [order for number in differing for order in (pairs[number], pairs[number][::-1])]
    prompts = [preference_prompt(*order) for order in orders]
    judgements = judge.ask("preference", prompts, read_preference, read_cut_preference)
    found = [EQUAL] * len(pairs)
    for number, mine_first, other_first in zip(differing, judgements[::2], judgements[1::2], strict=True):
        found[number] = _resolve(mine_first, other_first)
    return found


def _resolve(mine_first: Judgement, other_first: Judgement) -> Preference:
    first, second = mine_first.value, other_first.value
    if first is None or second is None:
        return Preference(mine_first if first is None else other_first, "failed")
    if first + second != 1:
        return Preference(Judgement(TIE), "inconsistent", (first, second))
    return Preference(Judgement(first), "tie" if first == TIE else "win" if first else "loss", (first, second))


def count_preferences(found: Sequence[Preference], n_unanswered: int = 0) -> dict[str, Any]:
    """How they came out, as results.json has it; `n` is all but the failed ones, and `n_unanswered` failed as well.

    `first_position_share`: of the verdicts for one side, those for the answer that stood first. Every pair was asked in
    both orders, so a judge that the position does not sway has 0.5.
    """
    outcomes = Counter(item.outcome for item in found)
    decided = [verdict for item in found for verdict in item.verdicts if verdict != TIE]
    return {
        "n": len(found) - outcomes["failed"],
        "n_wins": outcomes["win"],
        "n_losses": outcomes["loss"],
        "n_ties": outcomes["tie"],
        "n_inconsistent": outcomes["inconsistent"],
        "n_failed": outcomes["failed"] + n_unanswered,
        "first_position_share": round(sum(decided) / len(decided), 6) if decided else None,
    }
