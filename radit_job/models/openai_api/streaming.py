"""One conversation asked of a server, with the moments at which its answer began and ended."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from radit_job.model_ref import ModelRef
from radit_job.models.base import Completion, Conversation
from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger, Reservation
from radit_job.models.openai_api.billing import Bills
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.dialect import Dialect
from radit_job.models.openai_api.failures import BROKEN, CallFailed
from radit_job.models.openai_api.lm import FINISHED
from radit_job.models.openai_api.tokens import ServedTokens

MAX_ADAPTATIONS = 8  # more fields than we send
WRITTEN = ("content", "reasoning_content", "reasoning", "refusal")  # under which servers send what the model writes


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer; the moments are those of time.perf_counter."""

    completion: Completion
    sent_s: float
    first_token_s: float | None  # None where the answer came in one piece
    end_s: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """A conversation to be asked, and what is set aside for it."""

    conversation: Conversation
    n_prompt_tokens: int
    max_new_tokens: int
    most: Usage
    reservation: Reservation


class StreamingChat:
    """A served model, asked once for each call, with no second try; may be asked from many threads."""

    def __init__(self, ref: ModelRef, endpoint: Endpoint, ledger: Ledger, tokens: ServedTokens) -> None:
        self._ref = ref
        self._endpoint = endpoint
        self._ledger = ledger
        self._tokens = tokens
        self._dialect = Dialect(ref, has_budget=ledger.budget_usd is not None)
        self._bills = Bills(ref.name, margin=tokens.margin)

    def prepare(self, conversation: Conversation, max_new_tokens: int) -> Wanted:
        """Set aside what the call may cost; ConfigError where the budget does not allow it."""
        n_prompt = self._tokens.n_prompt(conversation)
        most = Usage(1, math.ceil(n_prompt * self._tokens.margin), max_new_tokens)
        return Wanted(conversation, n_prompt, max_new_tokens, most, self._ledger.reserve(self._ref.name, most))

    def ask(self, wanted: Wanted) -> Streamed:
        """Ask now, greedily; raises CallFailed. What it cost is in the ledger either way.

        A field that the server refuses is left out, and what was tried before that is in no time of the answer.
        """
        try:
            pieces, sent_s, end_s = self._send(wanted)
            n_own = self._tokens.n_text(pieces.text) + 1
            bill = self._bills.of(pieces.usage, wanted.n_prompt_tokens, n_own, wanted.max_new_tokens)
        except BaseException as error:  # interrupted, too: then the server may be at work
            if isinstance(error, CallFailed) and not error.may_be_billed:
                self._ledger.release(wanted.reservation)
            else:
                self._ledger.book("", wanted.reservation, wanted.most)
            raise
        self._ledger.book("", wanted.reservation, bill.charged)
        completion = Completion(
            pieces.text.strip(),
            bill.likely.n_prompt_tokens,
            bill.likely.n_completion_tokens,
            FINISHED.get(str(pieces.finish_reason), "stop"),
        )
        return Streamed(completion, sent_s, pieces.first_s, end_s)

    def _send(self, wanted: Wanted) -> tuple[_Pieces, float, float]:
        body = {
            "model": self._ref.name,
            "messages": [{"role": message.role, "content": message.content} for message in wanted.conversation],
            "max_tokens": wanted.max_new_tokens,
            "temperature": 0.0,
            "stream_options": {"include_usage": True},
        }
        for n_adapted in range(MAX_ADAPTATIONS + 1):
            sent = self._dialect.adapted(body)
            pieces = _Pieces()
            sent_s = time.perf_counter()
            try:
                self._endpoint.stream_chat({**sent, "stream": True}, self._ref.timeout_s, pieces.take)
            except CallFailed as failure:
                if n_adapted == MAX_ADAPTATIONS or not self._dialect.adapt(failure, body, sent):
                    raise
            else:
                end_s = time.perf_counter()
                pieces.check()
                return pieces, sent_s, end_s
        raise AssertionError("the last try returns or raises")


@dataclass(slots=True)
class _Pieces:
    """An answer as it comes."""

    parts: list[str] = field(default_factory=list)
    first_s: float | None = None
    finish_reason: str | None = None
    usage: Any = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def take(self, event: dict[str, Any]) -> None:
        """One event of the stream, or a whole answer."""
        if event.get("error"):
            raise CallFailed(200, BROKEN, f"the answer broke off: {str(event['error'])[:200]}", None, True)
        self.usage = event.get("usage") or self.usage
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if self.first_s is None and any(delta.get(name) for name in WRITTEN):
                self.first_s = time.perf_counter()
        else:
            delta = choice.get("message")
        if isinstance(delta, dict):
            self.parts.append(str(delta.get("content") or delta.get("refusal") or ""))

    def check(self) -> None:
        """Raise CallFailed for an answer that has no end."""
        if self.finish_reason is None:
            raise CallFailed(200, BROKEN, "an answer came, but it broke off before its end", None, True)
