"""What a reply says that it cost, held against our own count: a server's mistake must not ruin the books."""

from __future__ import annotations

import threading
from typing import Any

from radit_job import observe
from radit_job.models.ledger import Usage

FAR_OFF = 2  # times our own count, where our tokenizer is the server's
ABSURD = 10  # times our own count, whatever the tokenizer; and ABSURD_TOKENS beyond it, for what servers add
ABSURD_TOKENS = 1000


class Bills:
    """The usage of each reply of one model; says once what is wrong with it."""

    def __init__(self, model: str, *, is_exact: bool) -> None:
        """`is_exact`: our own counts of prompts are the server's."""
        self._model = model
        self._is_exact = is_exact
        self._lock = threading.Lock()
        self._said: set[str] = set()

    def usage(self, told: Any, n_prompt: int, n_completion: int, max_completion: int) -> Usage:
        """One call's usage: `told` is the reply's own (`usage`), the numbers are our counts and the limit we set."""
        fields = told if isinstance(told, dict) else {}
        prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens", 0)
        if prompt is None:
            self._say("it tells no usage, so its tokens are counted here")
        elif prompt == 0 or not (
            _is_count(prompt, ABSURD * n_prompt + ABSURD_TOKENS) and _is_count(completion, max_completion)
        ):
            self._say(f"the usage that it tells cannot be ({_short(told)}), so its tokens are counted here")
        else:
            if self._is_exact and not n_prompt / FAR_OFF <= prompt <= n_prompt * FAR_OFF:
                self._say(f"it tells {prompt} tokens for a prompt that has {n_prompt} by our count; its own are taken")
            return Usage(1, prompt, completion)
        return Usage(1, n_prompt, n_completion)

    def _say(self, what: str) -> None:
        kind = what.split()[2]
        with self._lock:
            if kind in self._said:
                return
            self._said.add(kind)
        observe.warn(f"{self._model}: {what}")


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _short(told: Any) -> str:
    return " ".join(str(told).split())[:100]
