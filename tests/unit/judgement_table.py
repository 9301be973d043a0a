"""Prints what the parsers make of the recorded judgements, as Markdown: python -m tests.unit.judgement_table"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radit_job.rag.judgement import read_score
from radit_job.rag.verdicts import read_preference, read_yes_no

RECORDED = Path(__file__).parent / "recorded" / "judgements.jsonl"
READERS = {"score": read_score, "yes_no": read_yes_no, "preference": read_preference}


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


def table(kind: str) -> Iterator[str]:
    rows = [row for row in recorded() if row["read_as"] == kind]
    n_right = 0
    yield "| form | the judge's answer | read as |\n|---|---|---|"
    for row in rows:
        found = READERS[kind](row["text"])
        n_right += (found.value, found.reason) == (row["value"], row["reason"])
        shown = row["text"].replace("|", "\\|").replace("\n", " ⏎ ")
        made = f"**{found.value:g}**" if found.value is not None else f"failed: {found.reason}"
        yield f"| {row['form']} | {shown} | {made} |"
    yield f"\n{kind}: {n_right} of {len(rows)} as expected"


if __name__ == "__main__":
    for kind in sys.argv[1:] or READERS:
        print("\n".join(table(kind)))
