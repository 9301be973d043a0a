"""Training files, checked as OpenAI checks them and refused in its words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import mean
from typing import Any

from tests.servers.openai_server import tokens

MIN_EXAMPLES = 10
_ROLES = ("system", "user", "assistant", "tool", "function", "developer")
_FAILED = "The job failed due to an invalid training file. "
Problem = tuple[str, str, str]  # code, message, param


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """What stands in a file, or what is wrong with it."""

    file_id: str
    rows: tuple[dict[str, Any], ...]
    problem: Problem | None

    def n_tokens(self, model: str) -> int:
        """By the cookbook's rule, every example with the 3 of its reply."""
        return sum(tokens.count_messages(row["messages"], model) for row in self.rows)

    @property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """(last user message, answer) of each row."""
        found = []
        for row in self.rows:
            users = [tokens.content_of(one) for one in row["messages"] if one["role"] == "user"]
            found.append((users[-1] if users else "", tokens.content_of(row["messages"][-1])))
        return tuple(found)

    @property
    def mean_words(self) -> int:
        """Mean length of the answers."""
        return max(3, round(mean(len(reply.split()) for _, reply in self.examples))) if self.rows else 20


def read(file_id: str, data: bytes) -> TrainingFile:
    """Parse a JSONL file; the first mistake is kept as OpenAI words it."""
    rows: list[dict[str, Any]] = []
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return TrainingFile(file_id, (), _invalid("Invalid file format. The file is not encoded in UTF-8."))
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            hint = f'(HINT: line starts with: "{line[:1]}...").'
            message = (
                "Expected file to have JSONL format, where every line is a valid JSON dictionary. "
                f"Line {at} is not a dictionary {hint}"
            )
            return TrainingFile(file_id, (), _invalid(message))
        if wrong := _wrong(row, at):
            return TrainingFile(file_id, (), _invalid(wrong))
        rows.append(row)
    if len(rows) < MIN_EXAMPLES:
        message = f"Training file has {len(rows)} example(s), but must have at least {MIN_EXAMPLES} examples"
        return TrainingFile(file_id, tuple(rows), ("invalid_n_examples", message, "training_file"))
    return TrainingFile(file_id, tuple(rows), None)


def _wrong(row: dict[str, Any], at: int) -> str | None:
    messages = row.get("messages")
    if "messages" not in row:
        if "prompt" in row:
            return "Invalid file format. Input file is in the fine-tune-completion format, expected fine-tune-chat."
        return "Unexpected file format, expected either prompt/completion pairs or chat messages."
    if not isinstance(messages, list) or not messages:
        return f"Invalid file format. Example {at}, field 'messages' must be a non-empty list"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or "role" not in message:
            return f"Invalid file format. Example {at}, message {number} Discriminator 'role' is missing in value"
        if message["role"] not in _ROLES:
            return (
                f"Invalid file format. Example {at}, message {number} No match for discriminator 'role' and value "
                f"'{message['role']}' (allowed values: 'system', 'user', 'assistant', 'tool', 'function')"
            )
        if not tokens.content_of(message) and not message.get("tool_calls"):
            return f"Invalid file format. Example {at}, message {number} field 'content' is missing or empty"
    if messages[-1]["role"] != "assistant":
        return f"Invalid file format. Example {at}, last message must be from the assistant"
    return None


def _invalid(message: str) -> Problem:
    return "invalid_training_file", _FAILED + message, "training_file"
