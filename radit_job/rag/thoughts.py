"""What a reasoning model writes before its answer, and what is left where it came no further."""

from __future__ import annotations

import re

from radit_job.models.base import Completion

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """The text without what stands in <think>; thoughts that never end go on to the text's end."""
    return _THOUGHTS.sub("", text)


def has_used_up_its_limit(completion: Completion) -> bool:
    """Whether the limit on an answer's tokens was reached before any text came."""
    return completion.finish_reason == "length" and not without_thoughts(completion.text).strip()


def used_up(max_new_tokens: int, setting: str) -> str:
    """What to tell of such an answer; `setting` names the limit."""
    limit = f"the limit of {max_new_tokens} tokens"
    return f"{limit} was used up before any text came, as reasoning models do; raise {setting}"
