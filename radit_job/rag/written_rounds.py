"""What a language model wrote, round by round, in a file that outlives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from radit_job.hashing import digest
from radit_job.records import Message


@dataclass(frozen=True, slots=True)
class WrittenRound:
    """The model's texts to one round of conversations, in their order, and what they cost."""

    texts: list[str]
    n_completion_tokens: int
    n_prompt_tokens: int = 0  # this and the next are told where pairs are written
    finish_reasons: list[str] = field(default_factory=list)


class WrittenRounds:
    """The finished rounds in a JSONL file; one that a kill tore in two is cut off and counts as not written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rounds: dict[str, WrittenRound] = {}
        if path.exists():
            os.truncate(path, self._read())

    def _read(self) -> int:
        n_whole_bytes = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                asked = row.pop("asked")
                self._rounds[asked] = WrittenRound(**row)
                n_whole_bytes += len(line)
        return n_whole_bytes

    def find(self, conversations: Sequence[Sequence[Message]], seed: int) -> WrittenRound | None:
        """What was written to these conversations with this seed, if their round was finished."""
        return self._rounds.get(_asked(conversations, seed))

    def keep(self, conversations: Sequence[Sequence[Message]], seed: int, written: WrittenRound) -> None:
        """Append one finished round."""
        asked = _asked(conversations, seed)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"asked": asked, **asdict(written)}) + "\n")
        self._rounds[asked] = written


def _asked(conversations: Sequence[Sequence[Message]], seed: int) -> str:
    return digest([seed, [[asdict(message) for message in conversation] for conversation in conversations]])
