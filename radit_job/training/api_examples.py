"""Training files for a fine-tuning API: what is wrong with the rows is found before anything is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from radit_job import observe
from radit_job.errors import InputError
from radit_job.records import Example, Message

MIN_TRAINING_ROWS = 10  # OpenAI refuses fewer
# A service only shows the held-out loss and chooses nothing by it: fewer rows than this are worth more in training, and
# some services refuse a file of them.
MIN_VALIDATION_ROWS = 10
MAX_EXAMPLE_TOKENS = 65_536  # OpenAI's limit for the models of today; a longer one is cut there, at its answer
MISTAKES_NAMED = 3
PLACES_NAMED = 3
LINE_ENDS = "\x85\u2028\u2029"  # JSON leaves them in its strings, and some readers of lines end a line there
ROLES = ("system", "user", "assistant")

CountTokens = Callable[[Sequence[Message]], int]


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file as it is sent: `{"messages": [{"role", "content"}, ...]}` a line."""

    data: bytes
    n_rows: int
    n_tokens: int

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def name(self) -> str:
        """What the file is called at the service: equal content has an equal name, and is found again by it."""
        return f"radit-{self.sha256[:24]}.jsonl"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a job is made from."""

    training: DataFile
    validation: DataFile | None  # None where nothing is held out
    n_dropped: int  # too long for the model


def training_data(
    train: Sequence[Example], dev: Sequence[Example], count_tokens: CountTokens, *, max_tokens: int
) -> TrainingData:
    """The rows as files; those above `max_tokens` are left out, counted, and said.

    `count_tokens` measures a whole conversation. InputError if fewer than MIN_TRAINING_ROWS are left to train on.
    """
    (kept, n_tokens), (held_out, n_held_out_tokens) = (
        _fitting(rows, count_tokens, max_tokens) for rows in (train, dev)
    )
    n_dropped = len(train) + len(dev) - len(kept) - len(held_out)
    if n_dropped:
        observe.warn(
            f"{n_dropped} of {len(train) + len(dev)} examples are longer than {max_tokens} tokens and were dropped",
            n_dropped=n_dropped,
        )
    if len(kept) < MIN_TRAINING_ROWS:
        raise InputError(
            f"a fine-tuning API takes {MIN_TRAINING_ROWS} training examples or more, and there are {len(kept)} "
            f"({len(dev)} held out, {n_dropped} dropped because they are longer than {max_tokens} tokens)",
            where="examples",
            todo="Give more questions, or a smaller finetune_lm.dev_share.",
        )
    validation = _file(held_out, n_held_out_tokens) if held_out else None
    return TrainingData(_file(kept, n_tokens), validation, n_dropped)


def refuse_mistakes(rows: Sequence[Example], *, where: str) -> None:
    """InputError that names the most common mistakes, how often and in which lines, if there are any."""
    lines: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=1):
        for mistake in mistakes(row.messages):
            lines.setdefault(mistake, []).append(number)
    if not lines:
        return
    n_wrong = len({number for numbers in lines.values() for number in numbers})
    common = sorted(lines.items(), key=lambda item: -len(item[1]))
    named = "; ".join(f"{mistake}: {len(numbers)}, {_places(numbers)}" for mistake, numbers in common[:MISTAKES_NAMED])
    rest = sum(len(numbers) for _, numbers in common[MISTAKES_NAMED:])
    raise InputError(
        f"{n_wrong} of {len(rows)} training examples cannot be sent: {named}{f'; others: {rest}' if rest else ''}",
        where=where,
        todo="Nothing was sent. Correct the questions and answers that they are made from.",
    )


def mistakes(messages: Sequence[Message]) -> list[str]:
    """What is wrong with one conversation, each kind once; empty for a good one.

    The rules are those of the chat format: an optional system message first, then user and assistant in turn, the
    last word the assistant's (OpenAI's guide to supervised fine-tuning).
    """
    if not messages:
        return ["no messages"]
    found = []
    roles = [message.role for message in messages]
    if any(role not in ROLES for role in roles):
        found.append("a role other than system, user and assistant")
    if "system" in roles[1:]:
        found.append("a system message that is not the first")
    turns = [role for role in roles if role != "system"]
    if roles[-1] != "assistant":
        found.append("the last message is not the assistant's")
    if turns[:1] != ["user"] or any(one == other for one, other in pairwise(turns)):
        found.append("user and assistant do not take turns, the user first")
    for role, name in (("assistant", "answer"), ("user", "user message")):
        if any(message.role == role and not message.content.strip() for message in messages):
            found.append(f"an empty {name}")
    return found


def _places(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:PLACES_NAMED]))
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{', ...' if len(numbers) > PLACES_NAMED else ''}"


def _fitting(rows: Sequence[Example], count_tokens: CountTokens, max_tokens: int) -> tuple[list[Example], int]:
    """The rows that fit, and how long they are together."""
    lengths = [(row, count_tokens(row.messages)) for row in rows]
    fitting = [(row, length) for row, length in lengths if length <= max_tokens]
    return [row for row, _ in fitting], sum(length for _, length in fitting)


def _file(rows: Sequence[Example], n_tokens: int) -> DataFile:
    text = "".join(
        json.dumps({"messages": [asdict(message) for message in row.messages]}, ensure_ascii=False) + "\n"
        for row in rows
    )
    for character in LINE_ENDS:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return DataFile(text.encode(), len(rows), n_tokens)
