"""Why a document gives no text."""

from __future__ import annotations


class UnreadableError(Exception):
    """One document gives no text; `ingest` decides whether that fails the stage or skips the document."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
