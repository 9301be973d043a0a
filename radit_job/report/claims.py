"""What may be said of a difference: no claim where its interval includes zero, or rests on a few questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from radit_job.report.labels import interval, number
from radit_job.report.results import FEWEST_TO_CLAIM, Difference, Verdict

NO_CLAIM = "no difference one could claim"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, its topic, and which way it points."""

    topic: str
    text: str
    verdict: Verdict | Literal["note"]  # note: it says how to read the others


def claim(difference: Difference, *, decimals: int = 2) -> str:
    """`+0.25 [0.14, 0.36]`, and what may not be concluded from it."""
    text = measured(difference, decimals=decimals)
    if difference.n < FEWEST_TO_CLAIM:
        return f"{text} on {difference.n}: too few questions for a claim"
    return text if difference.is_clear else f"{text}: {NO_CLAIM}"


def measured(difference: Difference, *, decimals: int = 2) -> str:
    """`+0.25 [0.14, 0.36]`, for a sentence that says itself what may be concluded from it."""
    values = (difference.delta, difference.low, difference.high)
    # An end that rounds to zero would hide on which side of zero it lies.
    if any(value is not None and value != 0 and round(value, decimals) == 0 for value in values):
        decimals += 1
    ends = interval(difference.low, difference.high, decimals)
    return f"{number(difference.delta, decimals, signed=True)} {ends}".strip()
