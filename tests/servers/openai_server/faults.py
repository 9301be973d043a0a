"""What goes wrong, and when: by a seed and the request's number, so that a run can be repeated.

Kinds. Nothing is billed: rate_limit (429, Retry-After), server_error (500), unavailable (503), html (a proxy's page,
502), insufficient_quota (429), model_not_found (404), forbidden (403), unsupported_parameter (400; only requests that
carry `param`), context_length (400), content_filter (400), refused_file (400), reset (the connection breaks).
The work is done and billed: lost (the answer never leaves: reset), reset_mid_body, cut (a polite end in mid-body), slow
(dribbles for `seconds`), truncated (200, JSON that ends early), html_200, wrong_usage (`mode`: zero, missing, tenfold),
filtered (finish_reason content_filter), empty_choices, null_content, only_thoughts (no content, finish_reason length:
a reasoning model that came no further), hang (nothing for `seconds`). A streamed answer keeps its usage and content:
there only the kinds before wrong_usage, and hang, do something.
Of fine-tuning jobs: job_fails (`code`, `message`; the job is created, and fails while it runs), job_stalls (no end).
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.servers.openai_server import errors
from tests.servers.openai_server.errors import ApiError

_REFUSES = (
    "rate_limit server_error unavailable insufficient_quota model_not_found forbidden unsupported_parameter "
    "context_length content_filter refused_file"
)
_SPOILS = (
    "lost reset_mid_body cut slow truncated html_200 wrong_usage filtered empty_choices null_content only_thoughts hang"
)
REFUSES = frozenset(_REFUSES.split())
BEFORE_WORK = REFUSES | {"reset", "html"}
OF_JOBS = frozenset({"job_fails", "job_stalls"})
AFTER_WORK = OF_JOBS | frozenset(_SPOILS.split())


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule: `share` of the requests `on` an operation (* for all), after the first `after`, `times` at most."""

    kind: str
    on: str = "*"  # an operation's name: chat, completions, embeddings, models, files, fine_tuning.jobs, ...
    share: float = 1.0
    times: int | None = None
    after: int = 0
    containing: str = ""  # only bodies that hold this text
    retry_after_s: float | None = 1.0
    retry_after_is_date: bool = False
    seconds: float = 5.0
    mode: str = "zero"
    param: str = "max_tokens"
    code: str | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in BEFORE_WORK | AFTER_WORK:
            raise ValueError(f"no such fault: {self.kind}")

    def error(self, model: str) -> ApiError:
        """The refusal, for the kinds that are one."""
        error = self._error(model)
        return error if self.message is None else ApiError(
            error.status, self.message, kind=error.kind, param=error.param, code=self.code or error.code,
            headers=error.headers,
        )  # fmt: skip

    def _error(self, model: str) -> ApiError:
        match self.kind:
            case "rate_limit":
                wait_s = self.retry_after_s or 0.0
                error = errors.rate_limited(model, "requests per min (RPM)", 500, 500, 1, wait_s)
                if self.retry_after_s is not None:
                    date = email.utils.formatdate(time.time() + wait_s, usegmt=True)
                    error.headers = {"retry-after": date if self.retry_after_is_date else f"{wait_s:g}"}
                return error
            case "insufficient_quota":
                return errors.no_quota()
            case "model_not_found":
                return errors.no_model(model)
            case "forbidden":
                message = f"Project `proj_test` does not have access to model `{model}`"
                return ApiError(403, message, code="model_not_found")
            case "unsupported_parameter":
                return errors.unsupported(self.param)
            case "context_length":
                return errors.too_long(8192, 9216)
            case "content_filter":
                return errors.filtered()
            case "refused_file":
                message = (
                    "Invalid file format for Fine-Tuning API. Must be .jsonl: Expected file to have JSONL format, "
                    "where every line is a JSON dictionary. Line 1 is not a dictionary."
                )
                return ApiError(400, message, param="file")
            case "unavailable":
                return errors.server_error(503)
            case _:
                return errors.server_error(500)


class Faults:
    """The rules that hold now. Shares of several rules add up: 0.1 and 0.1 spoil a fifth of the requests."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._done: list[int] = []  # how often each rule has struck
        self._seen: Counter[str] = Counter()

    def set(self, rules: Iterable[Fault | dict[str, Any]]) -> None:
        """These rules from now on, and request numbers from 0 again."""
        with self._lock:
            self._rules = [rule if isinstance(rule, Fault) else Fault(**rule) for rule in rules]
            self._done = [0] * len(self._rules)
            self._seen.clear()

    def add(self, rule: Fault) -> None:
        """One rule more; the requests are counted on."""
        with self._lock:
            self._rules.append(rule)
            self._done.append(0)

    def pick(self, operation: str, body: Any) -> Fault | None:
        """What happens to this request of an operation; the first rule wins."""
        with self._lock:
            number = self._seen[operation]
            self._seen[operation] += 1
            if not self._rules:
                return None
            drawn, upper = _draw(self._seed, operation, number), 0.0
            for at, rule in enumerate(self._rules):
                if not self._may_strike(at, operation, number, body):
                    continue
                upper += rule.share
                if drawn < upper:
                    self._done[at] += 1
                    return rule
        return None

    def _may_strike(self, at: int, operation: str, number: int, body: Any) -> bool:
        rule = self._rules[at]
        if rule.on not in ("*", operation) or number < rule.after:
            return False
        if rule.times is not None and self._done[at] >= rule.times:
            return False
        if rule.kind == "unsupported_parameter" and not (isinstance(body, dict) and rule.param in body):
            return False
        return not rule.containing or rule.containing in _as_text(body)


def _as_text(body: Any) -> str:
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False)


def _draw(seed: int, operation: str, number: int) -> float:
    digest = hashlib.blake2b(f"{seed} {operation} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
