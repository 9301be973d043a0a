"""What became of a call that gave no answer: whether it may pass, and how it is told. No input or output here.

Source of the codes: https://platform.openai.com/docs/guides/error-codes; the other servers' forms are vLLM's, TGI's,
Ollama's and llama.cpp's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from radit_job.errors import InputError, RaditError, ServiceError
from radit_job.model_ref import ModelRef, key_variable

MAX_WORDS = 500  # characters of a server's message that are told
SHOWN_REQUEST = 80  # characters of a refused request's passage and of its end
RULE = re.compile(r"-{5,}")  # stands before and behind the passage in a prompt
MIN_SECRET = 6  # characters; what is shorter ("none", "EMPTY") is a placeholder and no secret
HIDDEN = "[key]"

QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"})
FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
PASSING = frozenset({408, 409, 425, 429})  # besides 5xx
LASTING = frozenset({501, 505})  # 5xx that another try does not change
MAYBE_BILLED = frozenset({502, 504, 524})  # a gateway gave up, and the model behind it may have gone on
BROKEN = "broken_answer"  # an answer came and cannot be read
UNREACHABLE_FOR_EVER = "unusable_address"  # a certificate or an address that no waiting makes good
TOO_LONG = re.compile(r"context.{0,12}length|context window|maximum context|too many tokens|too long", re.I)


class CallFailed(Exception):
    """A call to a served model gave no usable answer; what the server said, without the key."""

    def __init__(
        self,
        status: int | None,
        code: str | None,
        message: str,
        retry_after_s: float | None = None,
        may_be_billed: bool = False,
        *,
        param: str | None = None,
    ) -> None:
        """`status` None: no answer came at all. `may_be_billed`: the server may have done the work and charge for it.

        `param` is the request's field that the server names as the cause.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.may_be_billed = may_be_billed
        self.param = param


def may_pass(failure: CallFailed) -> bool:
    """Whether the same call may succeed later: rate limits, overload, connections, broken answers."""
    if failure.status is None:
        return failure.code != UNREACHABLE_FOR_EVER
    if failure.code in QUOTA_CODES:
        return False
    if failure.status < 400:
        return True  # it came, and was broken
    return failure.status in PASSING or (failure.status >= 500 and failure.status not in LASTING)


def in_words(failure: CallFailed, ref: ModelRef) -> RaditError:
    """The failure as the stage's one message: InputError where only the user can help, else ServiceError."""
    what, todo = _kind(failure, ref)
    kind = ServiceError if may_pass(failure) or failure.status is None else InputError
    return kind(f"{what}: {failure.message}", where=f"{ref.name} at {ref.base_url}", todo=todo)


def request_in_words(failure: CallFailed, body: Mapping[str, Any]) -> str:
    """The passage that the refused request is about, and its end, where the refusal is about its text."""
    if failure.code not in FILTER_CODES and not _is_too_long(failure):
        return ""
    messages = body.get("messages")
    text = str(messages[-1].get("content", "")) if messages else str(body.get("input") or body.get("prompt") or "")
    parts = RULE.split(text, 2)
    passage, end = (" ".join(part.split()) for part in (parts[1] if len(parts) > 1 else "", text))
    begins = f"its passage begins: {passage[:SHOWN_REQUEST]}...; " if passage else ""
    return f" ({begins}the request ends: ...{end[-SHOWN_REQUEST:]})"


def _is_too_long(failure: CallFailed) -> bool:
    return failure.code == "context_length_exceeded" or bool(TOO_LONG.search(failure.message))


def _kind(failure: CallFailed, ref: ModelRef) -> tuple[str, str]:
    server = urlsplit(ref.base_url).netloc
    kept = "What came is kept; run again to go on."
    if failure.code in QUOTA_CODES:
        return f"{server} has no quota left for this key", f"Add credit there. {kept}"
    if failure.code in FILTER_CODES:
        return f"{server} filtered the request", "Change or leave out the text that it objects to."
    variable = key_variable(ref)
    if failure.status in (401, 403) and variable is None:
        return f"{server} wants a key", "Name the environment variable that holds it in api_key_env."
    if failure.status == 401:
        return f"{server} refused the key", f"Put a valid key into {variable}."
    if failure.status == 403:
        return f"{server} does not permit this", f"The key in {variable} needs more rights, or another place."
    if failure.status == 404:
        return f"{server} does not know this", "Check the model's name and its base_url."
    if failure.status is None:
        what = "gave no whole answer" if failure.may_be_billed else "cannot be reached"
        return f"{server} {what}", f"Check base_url and the network. {kept}"
    if may_pass(failure):
        return f"{server} gave no answer that can be used", kept
    if _is_too_long(failure):
        return (
            f"{server} refused a prompt that is too long",
            "Set the model's context_tokens and tokenizer, or lower retrieval.k or chunking.size_tokens.",
        )
    return f"{server} refused the request ({failure.status})", "Change what it objects to."


def from_response(status: int, headers: Mapping[str, str], body: str, key: str) -> CallFailed:
    """What a server's error response says. `key` is hidden wherever the server repeats it."""
    error = _error_in(body)
    said = str(error.get("message") or error.get("detail") or "").strip() or _plain_words(body) or f"HTTP {status}"
    code = error.get("code") or error.get("type")
    param = error.get("param")
    return CallFailed(
        status,
        str(code) if code is not None else None,
        without_key(said, key),
        retry_after_s(headers, datetime.now(UTC)),
        status in MAYBE_BILLED,
        param=str(param) if param else None,
    )


def _error_in(body: str) -> dict[str, Any]:
    """The error's fields, wherever this kind of server puts them."""
    try:
        plain = json.loads(body)
    except ValueError:
        return {}
    if isinstance(plain, list) and plain:
        plain = plain[0]
    if not isinstance(plain, dict):
        return {"message": plain}
    error = plain.get("error", plain)
    if isinstance(error, dict):
        detail = error.get("detail")
        return error if detail is None or isinstance(detail, str) else {**error, "detail": json.dumps(detail)}
    return {"message": error, "code": plain.get("code"), "type": plain.get("error_type")}


def _plain_words(body: str) -> str:
    """A page's text, without its tags; nothing for JSON that holds no message."""
    text = body.strip()
    if text[:1] in ("{", "["):
        return ""
    return re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I)


def without_key(text: str, key: str) -> str:
    """The text on one line, at most MAX_WORDS long, with the key and anything that follows `Bearer` hidden."""
    text = " ".join(_hidden(text, key).split())
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}…"


def hidden_within(plain: Any, key: str) -> Any:
    """JSON with the key hidden in all of its texts, as `without_key` does, and nothing cut."""
    if isinstance(plain, str):
        return _hidden(plain, key)
    if isinstance(plain, list):
        return [hidden_within(item, key) for item in plain]
    if isinstance(plain, dict):
        return {name: hidden_within(item, key) for name, item in plain.items()}
    return plain


def _hidden(text: str, key: str) -> str:
    if len(key) >= MIN_SECRET:
        text = text.replace(key, HIDDEN)
    return re.sub(r"(bearer\s+)(?!\[key\])[^\s'\",}\]]+", rf"\1{HIDDEN}", text, flags=re.I)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110)."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    if (seconds := _number(told)) is not None:
        return seconds
    try:
        then = parsedate_to_datetime(told or "")
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
