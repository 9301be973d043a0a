"""A language model behind an address: answers by /chat/completions, how likely a text is by /completions (echo)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

from radit_job.errors import ConfigError
from radit_job.hashing import digest
from radit_job.model_ref import ModelRef
from radit_job.models.base import Answered, AnswerScore, Completion, Conversation, OnDone
from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api.attempts import Request
from radit_job.models.openai_api.billing import Bills
from radit_job.models.openai_api.calls import Calls
from radit_job.models.openai_api.client import Endpoint, Reply
from radit_job.models.openai_api.dialect import Dialect
from radit_job.models.openai_api.failures import BROKEN, CallFailed
from radit_job.models.openai_api.tokens import ServedTokens

FinishReason = Literal["stop", "length", "content_filter"]
FINISHED: dict[str, FinishReason] = {"length": "length", "max_tokens": "length", "content_filter": "content_filter"}


class OpenAILM:
    """An AnsweringLM; every answer is found in the ledger or paid for, and then kept there."""

    def __init__(self, ref: ModelRef, endpoint: Endpoint, ledger: Ledger) -> None:
        self.ref = ref
        self.tokens = ServedTokens(ref)
        self.calls = Calls(ref, ledger)
        dialect = Dialect(ref, has_budget=ledger.budget_usd is not None)
        bills = Bills(ref.name, margin=self.tokens.margin)
        self._chat = _Chat(endpoint, dialect, bills, self.tokens)
        self._echo = _Echo(endpoint, dialect, bills)

    @classmethod
    def open(cls, ref: ModelRef, ledger: Ledger) -> OpenAILM:
        """Nothing is sent yet; ConfigError if OpenAI's key is missing."""
        return cls(ref, Endpoint.open(ref), ledger)

    @property
    def context_tokens(self) -> int | None:
        """What the model reads at most, as the user said; None where nobody did."""
        return self.ref.context_tokens

    def n_prompt_tokens(self, conversation: Conversation) -> int:
        """How long the conversation is as a prompt, template included."""
        return self.tokens.n_prompt(conversation)

    def n_answer_tokens(self, answer: str) -> int:
        """How long an answer is, with the token that ends it."""
        return self.tokens.n_text(answer) + 1

    def complete(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 8,
        on_done: OnDone | None = None,
        response_format: dict[str, Any] | None = None,
        repeat: int = 0,
    ) -> list[Completion]:
        """See `Generator`. `batch_size` is the server's own matter; the model's `concurrency` says how many at once.

        `response_format` as in the API, left out where the server does not take it. `repeat` asks the same again: what
        was answered to another repeat is not taken for it. With a temperature row i is asked with seed + i.
        """

        def requests() -> Iterator[Request]:
            for row, conversation in enumerate(conversations):
                body = self._chat_body(conversation, max_new_tokens, temperature, seed + row, response_format)
                yield Request(
                    self._key("chat", body, repeat),
                    body,
                    partial(self._n_sent, conversation, response_format),
                    max_new_tokens,
                    self.tokens.margin,
                )

        return [_completion(kept) for kept in self.calls.answers(self._chat, requests(), on_done)]

    def answer(
        self,
        conversations: Sequence[Conversation],
        references: Sequence[str] | None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[Answered]:
        """See `AnsweringLM`; references are scored only with `can_score`."""
        scores: Sequence[AnswerScore | None] = [None] * len(conversations)
        if references is not None and self.ref.can_score:
            scores = self.score(conversations, references)
        completions = self.complete(
            conversations, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, on_done=on_done
        )
        return [Answered(*pair) for pair in zip(completions, scores, strict=True)]

    def score(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        *,
        batch_size: int = 8,
        on_done: OnDone | None = None,
    ) -> list[AnswerScore]:
        """See `Scorer`: the tokens are made here, so that a score here and of the same model in process are one thing.

        The form is that of EleutherAI's lm-evaluation-harness (local-completions): token ids, echo, one new token.
        """
        chat = self.tokens.chat
        if chat is None:
            raise ConfigError("scoring needs the served model's tokenizer", where=f"{self.ref.name}: tokenizer")
        prompts = [chat.prompt_ids(conversation) for conversation in conversations]
        targets = [chat.answer_ids(answer) for answer in answers]

        def requests() -> Iterator[Request]:
            for prompt, target in zip(prompts, targets, strict=True):
                ids = [*prompt, *target]
                body = {"model": self.ref.name, "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1}
                body["temperature"] = 0
                yield Request(self._key("score", body, 0), body, ids.__len__, 1)

        found = self.calls.answers(self._echo, requests(), on_done)
        return [
            AnswerScore(sum(kept["logprobs"][len(prompt) : len(prompt) + len(target)]), len(target))
            for prompt, target, kept in zip(prompts, targets, found, strict=True)
        ]

    def _n_sent(self, conversation: Conversation, response_format: dict[str, Any] | None) -> int:
        """A form's schema is read as part of the prompt, and charged as such."""
        schema = json.dumps(response_format) if response_format else ""
        return self.tokens.n_prompt(conversation) + (self.tokens.n_text(schema) if schema else 0)

    def _chat_body(
        self,
        conversation: Conversation,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        response_format: dict[str, Any] | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.ref.name,
            "messages": [{"role": message.role, "content": message.content} for message in conversation],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
        }
        if temperature > 0:
            body["seed"] = seed
        if response_format is not None:
            body["response_format"] = response_format
        return body

    def _key(self, kind: str, body: dict[str, Any], repeat: int) -> str:
        """Of the body as it is wanted: a server that takes less of it is not asked again after a restart."""
        return digest({"base_url": self.ref.base_url, "kind": kind, "body": body, "repeat": repeat})


class _Chat:
    """Answers to conversations."""

    def __init__(self, endpoint: Endpoint, dialect: Dialect, bills: Bills, tokens: ServedTokens) -> None:
        self.send = endpoint.chat
        self.adapted, self.adapt = dialect.adapted, dialect.adapt
        self._bills, self._tokens = bills, tokens

    def read(self, request: Request, n_prompt_tokens: int, reply: Reply) -> tuple[dict[str, Any], Usage]:
        choice = _first_choice(reply)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise _broken("its first choice has no message")
        text = _text_of(message)
        reason = choice.get("finish_reason")
        if text is None:
            if reason is None:
                raise _broken("its message has no content")
            text = ""
        n_own = self._tokens.n_text(text) + 1
        bill = self._bills.of(reply.body.get("usage"), n_prompt_tokens, n_own, request.max_answer_tokens)
        answer = {
            "text": text,
            "finish_reason": FINISHED.get(str(reason), "stop"),
            "n_prompt_tokens": bill.likely.n_prompt_tokens,
            "n_completion_tokens": bill.likely.n_completion_tokens,
        }
        return answer, bill.charged


class _Echo:
    """The log-probability of every token of a prompt."""

    def __init__(self, endpoint: Endpoint, dialect: Dialect, bills: Bills) -> None:
        self.send = endpoint.completions
        self.adapted, self.adapt = dialect.adapted, dialect.adapt
        self._bills = bills

    def read(self, request: Request, n_prompt_tokens: int, reply: Reply) -> tuple[dict[str, Any], Usage]:
        logprobs = _first_choice(reply).get("logprobs")
        values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        n_prompt = len(request.body["prompt"])
        if not isinstance(values, list) or not n_prompt <= len(values) <= n_prompt + 1:
            raise CallFailed(
                400, "no_echo", "it does not tell the log-probabilities of a prompt's tokens; set can_score: false"
            )
        values = values[:n_prompt]
        if not all(isinstance(value, int | float) for value in values[1:]):  # before the first there is nothing
            raise _broken("a log-probability is missing")
        return {"logprobs": [0.0, *values[1:]]}, self._bills.of(reply.body.get("usage"), n_prompt, 1, 1).charged


def _first_choice(reply: Reply) -> dict[str, Any]:
    choices = reply.body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _broken("it holds no choices")
    return choices[0]


def _text_of(message: dict[str, Any]) -> str | None:
    """The message's text, or the words in which the model refused."""
    content = message.get("content")
    if isinstance(content, list):  # in parts, as some servers write it
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if isinstance(content, str) and content:
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) and refusal else content if isinstance(content, str) else None


def _broken(what: str) -> CallFailed:
    return CallFailed(200, BROKEN, f"an answer came, but {what}", None, True)


def _completion(kept: dict[str, Any]) -> Completion:
    return Completion(kept["text"].strip(), kept["n_prompt_tokens"], kept["n_completion_tokens"], kept["finish_reason"])
