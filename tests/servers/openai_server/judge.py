"""The test server as a judge: LlamaIndex's correctness, pairwise, faithfulness and relevancy prompts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.servers.openai_server.text import draw, f1, share_in, stems

if TYPE_CHECKING:
    from tests.servers.openai_server.skills import Habits

FORMS = (
    "{score:.1f}\n{reason}",
    "Score: {score:g}/5\n{reason}",
    "**{score:g}**\n\n{reason}",
    "{score:.1f}\n\n{reason}",
)
TIE = 0.05  # answers whose overlap with the reference differs by less are equally good
_CORRECTNESS = re.compile(
    r"## User Query\s*\n(.*?)\n\s*## Reference Answer\s*\n(.*?)\n\s*## Generated Answer\s*\n(.*)", re.DOTALL
)
_PAIRWISE = re.compile(
    r"\[User Question\]\s*\n(.*?)\n\s*\[The Start of Reference\]\s*\n(.*?)\n\[The End of Reference\].*?"
    r"\[The Start of Assistant A.s Answer\]\s*\n(.*?)\n\[The End of Assistant A.s Answer\].*?"
    r"\[The Start of Assistant B.s Answer\]\s*\n(.*?)\n\[The End of Assistant B.s Answer\]",
    re.DOTALL,
)
_FAITHFUL = re.compile(r".*(?:^|\n)Information: (.*?)\nContext: ?(.*?)\n?Answer: ?\s*\Z", re.DOTALL)
_RELEVANT = re.compile(r"Query and Response: \n ?(.*?)\nContext: \n ?(.*?)\nAnswer: ?\s*\Z", re.DOTALL)
_REFINED = re.compile(r"(?:context information|context information: \n) ?: ?(.*?)\nWe have provided an existing YES/NO "
                      r"answer: ?(.*?)\nWe have the opportunity.*?-{6,}\n(.*?)\n-{6,}", re.DOTALL)  # fmt: skip


def answer(everything: str, user: str, habits: Habits, number: int, luck: str) -> str | None:
    """The verdict, or None where this is no prompt for a judge."""
    if "expert evaluation system" in everything:
        return _correctness(user if "Generated Answer" in user else everything, habits, number, luck)
    if "impartial judge" in everything:
        return _pairwise(everything, habits, number, luck)
    if "supported by the context" in everything and (found := _FAITHFUL.search(user)):
        return _yes_or_no(found[1], found[2], habits, number)
    if found := _RELEVANT.search(user):
        response = re.search(r"Response: (.*)", found[1], re.DOTALL)
        return _yes_or_no(response[1] if response else found[1], found[2], habits, number)
    if "existing YES/NO answer" in user:
        return _refined(user, habits, number)
    return None


def _correctness(text: str, habits: Habits, number: int, luck: str) -> str:
    found = _CORRECTNESS.search(text)
    if found is None:
        return "I need the query, the reference answer and the generated answer to give a score."
    query, reference, generated = (part.strip() for part in found.groups())
    overlap = (
        f1(generated, reference)
        if stems(reference) and "NO REFERENCE ANSWER" not in reference
        else share_in(query, generated)
    )
    score = round(2 * (1 + 4 * min(1.0, overlap * 1.15))) / 2
    if _is_unsteady(habits, number):
        score = score + 1 if score <= 4 else score - 1
    degree = ("has nothing in common with", "misses most of", "covers a part of", "covers most of", "agrees with")
    reason = (
        f"The generated answer {degree[min(int(score) - 1, 4)]} the reference answer. It was read against each "
        "statement of the reference, as to what it names, how much it leaves out, and whether it adds something that "
        "the reference does not say."
    )
    forms = habits.judge_forms
    form = forms[int(len(forms) * draw("form", query, reference, generated, luck))]
    return form.format(score=score, reason=reason)


def _pairwise(text: str, habits: Habits, number: int, luck: str) -> str:
    found = _PAIRWISE.search(text)
    if found is None:
        return "I cannot find two answers to compare."
    query, reference, first, second = (part.strip() for part in found.groups())
    against = reference if stems(reference) else query
    difference = f1(first, against) - f1(second, against)
    verdict = "C" if abs(difference) < TIE else "A" if difference > 0 else "B"
    if _is_unsteady(habits, number):
        verdict = {"A": "C", "B": "C", "C": "A"}[verdict]
    if draw("first", query, first, second, luck) < habits.judge_prefers_first_share:
        verdict = "A"
    why = {
        "A": "Assistant A's answer is closer to the reference and leaves out less.",
        "B": "Assistant B's answer is closer to the reference and leaves out less.",
        "C": "Both assistants say much the same, and both are about as complete.",
    }[verdict]
    return (
        "Both assistants address the user's question, and both keep to the subject that it names. Held against the "
        "reference, they differ in how many of its statements they repeat, and in how much they say that it does not. "
        f"{why} The order in which the answers were given and their length were left out of account.\n\n[[{verdict}]]"
    )


def _yes_or_no(claimed: str, context: str, habits: Habits, number: int) -> str:
    holds = share_in(claimed, context) > 0.5
    if _is_unsteady(habits, number):
        holds = not holds
    return "YES" if holds else "NO"


def _refined(user: str, habits: Habits, number: int) -> str:
    found = _REFINED.search(user)
    if found is None or "yes" in found[2].lower():
        return "YES" if found else "NO"
    return _yes_or_no(found[1], found[3], habits, number)


def _is_unsteady(habits: Habits, number: int) -> bool:
    return draw("unsteady", number) < habits.judge_unsteady_share
