"""What a reply says that it cost, held against our own count: a server's mistake must not ruin the books."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

from radit_job import observe
from radit_job.models.cost import Usage

FAR_OFF = 2  # times our own count, where our tokenizer is the server's
ABSURD = 10  # times our own count, whatever the tokenizer; and ABSURD_TOKENS beyond it, for what servers add
ABSURD_TOKENS = 1000
LONGEST_ANSWER_TOKENS = 200_000  # more than any model writes in one answer, hidden thoughts included


@dataclass(frozen=True, slots=True)
class Bill:
    """One call's usage: what is booked for it, never too little, and what it most likely was."""

    charged: Usage
    likely: Usage


class Bills:
    """The usage of each reply of one model; says once what is wrong with it."""

    def __init__(self, model: str, *, margin: float) -> None:
        """`margin`: how many times our count the server's may be; 1 where our tokenizer is the server's."""
        self._model = model
        self._margin = margin
        self._lock = threading.Lock()
        self._said: set[str] = set()

    def of(self, told: Any, n_prompt: int, n_completion: int, max_completion: int) -> Bill:
        """One call's bill: `told` is the reply's own (`usage`), the numbers are our counts and the limit we set."""
        fields = told if isinstance(told, dict) else {}
        prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens", 0)
        if prompt is None:
            self._say("missing", "it tells no usage, so its tokens are counted here")
        elif prompt == 0 or not (
            _is_count(prompt, ABSURD * n_prompt + ABSURD_TOKENS) and _is_count(completion, LONGEST_ANSWER_TOKENS)
        ):
            self._say("absurd", f"the usage that it tells cannot be ({_short(told)}), so its tokens are counted here")
        else:
            return self._told(prompt, completion, n_prompt, n_completion, max_completion)
        most = max(n_completion, min(max_completion, math.ceil(n_completion * self._margin)))
        return Bill(Usage(1, math.ceil(n_prompt * self._margin), most), Usage(1, n_prompt, n_completion))

    def _told(self, prompt: int, completion: int, n_prompt: int, n_completion: int, max_completion: int) -> Bill:
        its_own = "its own are taken"
        if self._margin == 1 and not n_prompt / FAR_OFF <= prompt <= n_prompt * FAR_OFF:
            self._say("prompt", f"it tells {prompt} tokens for a prompt that has {n_prompt} by our count; {its_own}")
        if completion > max_completion:  # it was not sent the limit, or does not obey it
            self._say("limit", f"it tells {completion} tokens for an answer of at most {max_completion}; {its_own}")
            completion = max(completion, n_completion)
        usage = Usage(1, prompt, completion)
        return Bill(usage, usage)

    def _say(self, kind: str, what: str) -> None:
        with self._lock:
            if kind in self._said:
                return
            self._said.add(kind)
        observe.warn(f"{self._model}: {what}")


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _short(told: Any) -> str:
    return " ".join(str(told).split())[:100]
