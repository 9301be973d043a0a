"""The run's own way to an answer, with the model behind an address: each client's requests on a thread of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from radit_job.latency.base import PARTS, Call, Part, Task, Timed
from radit_job.latency.task_prompts import TaskPrompts
from radit_job.model_ref import ModelRef
from radit_job.models.base import Conversation
from radit_job.models.ledger import Ledger
from radit_job.models.openai_api.client import Endpoint
from radit_job.models.openai_api.failures import CallFailed, in_words, may_pass, request_in_words
from radit_job.models.openai_api.pacing import Pace
from radit_job.models.openai_api.streaming import Streamed, StreamingChat, Wanted
from radit_job.models.openai_api.tokens import ServedTokens

Outcome = Streamed | BaseException


class ServedEngine:
    """`models.lm` behind an address; `prefill` is the time until its first token came, `decode` the rest."""

    name = "radit"
    is_serial = False

    def __init__(self, ref: ModelRef, prompts: TaskPrompts, ledger: Ledger, *, max_new_tokens: int) -> None:
        """Nothing is sent yet; ConfigError if OpenAI's key is missing."""
        tokens = ServedTokens(ref)
        self._ref = ref
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._chat = StreamingChat(ref, Endpoint.open(ref), ledger, tokens)
        self._pace = Pace(ref.requests_per_minute, ref.tokens_per_minute, time.monotonic)

    def ask(self, task: Task, questions: Sequence[str]) -> list[Timed]:
        """See `Engine`: parallel requests, streamed. RaditError where no other call would fare better."""
        self._prompts.know(task, questions)
        start_s = time.perf_counter()
        ready, before = self._prompts.of(task, questions)
        made_s = time.perf_counter() - start_s
        wanted = [self._when_allowed(conversation) for one in ready for conversation in one.conversations]
        begin_s = time.perf_counter()  # what stands between is the user's own limits: no client's time
        outcomes = iter(_all_at_once([partial(self._chat.ask, one) for one in wanted]))
        timed = []
        for one in ready:
            mine = list(islice(outcomes, len(one.conversations)))
            self._note_failures(mine, one.conversations)
            if one.error is not None:
                parts = dict.fromkeys(PARTS, 0.0) | {"other": made_s}
                timed.append(Timed(made_s, parts, None, (), one.error))
            else:
                timed.append(_timed(one.conversations, mine, before, made_s, begin_s))
        return timed

    def _when_allowed(self, conversation: Conversation) -> Wanted:
        wanted = self._chat.prepare(conversation, self._max_new_tokens)
        n_tokens = wanted.most.n_prompt_tokens + wanted.most.n_completion_tokens
        while (wait_s := self._pace.take(n_tokens)) > 0:
            time.sleep(wait_s)
        return wanted

    def _note_failures(self, outcomes: Sequence[Outcome], conversations: Sequence[Conversation]) -> None:
        """Raise what is final; a refusal for the moment slows down what comes next."""
        for outcome, conversation in zip(outcomes, conversations, strict=True):
            if isinstance(outcome, CallFailed):
                if not may_pass(outcome):
                    error = in_words(outcome, self._ref)
                    messages = [{"role": one.role, "content": one.content} for one in conversation]
                    error.what += request_in_words(outcome, {"messages": messages})
                    raise error from outcome
                if outcome.status == 429:
                    self._pace.refused(outcome.retry_after_s)
            elif isinstance(outcome, BaseException):
                raise outcome


def _timed(
    conversations: Sequence[Conversation],
    outcomes: Sequence[Outcome],
    before: dict[Part, float],
    made_s: float,
    begin_s: float,
) -> Timed:
    """One client's question, whose answer is there when the last of its prompts is answered."""
    parts = dict.fromkeys(PARTS, 0.0) | before
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Streamed)]
    if failed:
        parts["other"] = made_s - sum(parts.values())
        return Timed(made_s, parts, None, (), str(failed[0]))
    streamed = [outcome for outcome in outcomes if isinstance(outcome, Streamed)]
    end_s = max(one.end_s for one in streamed)
    firsts = [one.first_token_s for one in streamed if one.first_token_s is not None]
    first_s = None
    if len(firsts) == len(streamed):
        parts["prefill"] = max(firsts) - min(one.sent_s for one in streamed)
        parts["decode"] = end_s - max(firsts)
        first_s = made_s + max(firsts) - begin_s
    total_s = made_s + end_s - begin_s
    parts["other"] = total_s - sum(parts.values())
    calls = tuple(
        Call(
            _written(conversation),
            one.completion.text,
            one.completion.n_prompt_tokens,
            one.completion.n_completion_tokens,
        )
        for conversation, one in zip(conversations, streamed, strict=True)
    )
    return Timed(total_s, parts, first_s, calls)


def _written(conversation: Conversation) -> str:
    """The messages, role by role: how the server renders them is not known here."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in conversation)


def _all_at_once(jobs: Sequence[Callable[[], Streamed]]) -> list[Outcome]:
    """What each job returned or raised. The threads end with the process: who interrupts need not wait for them."""
    outcomes: dict[int, Outcome] = {}

    def work(number: int) -> None:
        try:
            outcomes[number] = jobs[number]()
        except BaseException as error:  # the caller's thread decides what it means
            outcomes[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[number] for number in range(len(jobs))]
