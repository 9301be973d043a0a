"""What one server does not take of a request, learnt from its refusals: said once, and left out from then on."""

from __future__ import annotations

import re
import threading
from typing import Any

from radit_job import observe
from radit_job.errors import ConfigError
from radit_job.model_ref import OPENAI_URL, ModelRef
from radit_job.models.openai_api.failures import CallFailed

REFUSALS = (400, 422, 501)
REFUSAL_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
REFUSAL_WORDS = re.compile(
    r"unsupported|not\s+(?:yet\s+)?support|unknown|unrecogni[sz]ed|unexpected|only the default|extra (?:inputs|fields)"
    r"|not (?:permitted|allowed|available|implemented)|invalid (?:parameter|argument|field)",
    re.I,
)
LIMIT = "max_tokens"
NEWER_LIMIT = "max_completion_tokens"
CONSEQUENCES = {
    "response_format": "answers come without a fixed form, and are read as they are",
    LIMIT: "answers may be longer than wanted",
    NEWER_LIMIT: "answers may be longer than wanted",
    "temperature": "it answers at its own temperature, so another run may answer otherwise",
    "seed": "another run may answer otherwise",
    "stream_options": "what a streamed answer costs is counted here",
    "encoding_format": "vectors come as lists of numbers",
}


class Dialect:
    """How one served model wants its requests; may be asked from many threads."""

    def __init__(self, ref: ModelRef, *, has_budget: bool) -> None:
        """`has_budget`: a call's cost must have a bound, so the limit of its answer's length is not given up."""
        self._name = ref.name
        self._has_budget = has_budget
        self._lock = threading.Lock()
        self._dropped: set[str] = set()
        self._limit = NEWER_LIMIT if ref.base_url == OPENAI_URL else LIMIT
        self._has_switched = False

    def adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body without what the server does not take; `max_tokens` under the name that it knows."""
        with self._lock:
            named = {self._limit if name == LIMIT else name: value for name, value in body.items()}
            return {name: value for name, value in named.items() if name not in self._dropped}

    def adapt(self, failure: CallFailed, wanted: dict[str, Any], sent: dict[str, Any]) -> bool:
        """Learn from a refusal; False if it is not about a field that can be spared or renamed.

        ConfigError if it is the limit, by both names, and there is a budget.
        """
        if failure.status not in REFUSALS:
            return False
        if sent != self.adapted(wanted):
            return True  # another thread has learnt it meanwhile
        name = _refused_field(failure, sent)
        if name is None:
            return False
        with self._lock:
            if name in (LIMIT, NEWER_LIMIT) and not self._has_switched:
                self._has_switched = True
                self._limit = NEWER_LIMIT if name == LIMIT else LIMIT
                change = f"{self._limit} takes its place"
            elif name in self._dropped:
                return True
            elif name in (LIMIT, NEWER_LIMIT) and self._has_budget:
                raise ConfigError(
                    f"{self._name} takes no limit of an answer's length, so what a call costs has no bound: "
                    f"{failure.message}",
                    where="spending.budget_usd",
                    todo="Drop the budget, or choose another model.",
                )
            else:
                self._dropped.add(name)
                change = CONSEQUENCES[name]
        observe.warn(f"{self._name} does not take {name}: {change}", server_says=failure.message)
        return True


def _refused_field(failure: CallFailed, sent: dict[str, Any]) -> str | None:
    """Which of the fields that can be spared is refused as such, and not for its value."""
    told = (failure.param or "").partition(".")[0]
    text = failure.message
    fields = [name for name in CONSEQUENCES if name in sent]
    named = [name for name in fields if name == told] or [
        name for name in fields if not told and re.search(rf"(?<![\w-]){name}(?![\w-])", text)
    ]
    if not named and "response_format" in sent and "json_schema" in text:
        named = ["response_format"]
    if not named:
        return None
    is_refused = failure.code in REFUSAL_CODES or REFUSAL_WORDS.search(text)
    return named[0] if is_refused or named[0] == "response_format" else None
