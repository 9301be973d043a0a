"""Conversations: the system prompt, the template filled with question and context, and the few-shot turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from radit_job.records import Message

CHUNK_SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class Prompts:
    """How a question becomes a conversation; the same for training and for every arm."""

    system_prompt: str  # empty: no system message
    template: str  # holds {context} and {question}
    closed_book_template: str  # holds {question}

    def with_context(self, question: str, texts: Sequence[str]) -> list[Message]:
        """System and user message; the chunks stand best first, separated by a blank line."""
        return [*self._system(), Message("user", fill(self.template, context=join(texts), question=question))]

    def closed_book(self, question: str) -> list[Message]:
        """System and user message without any context."""
        return [*self._system(), self._bare(question)]

    def few_shot(self, pairs: Sequence[tuple[str, str]], question: str, texts: Sequence[str]) -> list[Message]:
        """As `with_context`, after earlier turns that show how (question, answer) pairs are answered.

        The earlier turns carry no context, so that the prompt stays short, and they do not depend on the question:
        all conversations of this arm share them as a prefix, which a model need read only once.
        """
        system, user = self._system(), self.with_context(question, texts)[-1]
        turns = [turn for shown, answer in pairs for turn in (self._bare(shown), Message("assistant", answer))]
        return [*system, *turns, user]

    def _system(self) -> list[Message]:
        return [Message("system", self.system_prompt)] if self.system_prompt else []

    def _bare(self, question: str) -> Message:
        return Message("user", fill(self.closed_book_template, question=question))


def join(texts: Sequence[str]) -> str:
    """The chunks of a `joined` context as one text."""
    return CHUNK_SEPARATOR.join(text.strip() for text in texts)


def fill(template: str, **fields: str) -> str:
    """Put each field where {its name} stands.

    One pass over the template and nothing else: braces in a document or a question are text, whatever they spell.
    """
    names = "|".join(re.escape(name) for name in fields)
    return re.sub(rf"\{{({names})\}}", lambda found: fields[found[1]], template)
