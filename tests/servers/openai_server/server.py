"""The server: its settings, its models and jobs, its books."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.openai_server import tokens
from tests.servers.openai_server.faults import Fault, Faults
from tests.servers.openai_server.files import Files
from tests.servers.openai_server.fine_tuning import JobPace, Jobs
from tests.servers.openai_server.http_server import HttpServer
from tests.servers.openai_server.limits import Limits
from tests.servers.openai_server.skills import Habits
from tests.servers.openai_server.state import Books, Row

KEY = "sk-test-canary0123456789abcdefCANARY"  # must never be seen in any message, log or artifact
CHAT_MODELS = {  # what each reads at most, in tokens
    "gpt-4o": 128_000,
    "gpt-4o-2024-08-06": 128_000,
    "gpt-4o-mini": 128_000,
    "gpt-4o-mini-2024-07-18": 128_000,
    "gpt-4": 8_192,
    "gpt-4.1": 1_047_576,
    "gpt-4.1-2025-04-14": 1_047_576,
    "gpt-4.1-mini": 1_047_576,
    "gpt-4.1-mini-2025-04-14": 1_047_576,
    "gpt-4.1-nano": 1_047_576,
    "gpt-4.1-nano-2025-04-14": 1_047_576,
    "gpt-3.5-turbo": 16_385,
    "gpt-3.5-turbo-0125": 16_385,
    "gpt-3.5-turbo-1106": 16_385,
    "gpt-3.5-turbo-instruct": 4_096,
    "gpt-5-mini": 400_000,
    "o4-mini": 200_000,
}
EMBEDDING_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")


@dataclass(slots=True)
class Settings:
    """What can be set; the names are those of `openai_server(...)`."""

    key: str | None = KEY  # None: any key will do, as with a server of one's own
    whole_key_in_401: bool = False
    latency_s: float = 0.0  # of everything that is billed
    requests_per_minute: int | None = 30_000
    tokens_per_minute: int | None = 150_000_000
    burst_s: float = 1.0  # the rate limits' buckets hold what flows in during that time
    models: tuple[str, ...] = ()  # further names of chat models
    any_model: bool = False  # whatever name is given, as llama.cpp's server does
    context_tokens: int | None = None  # of every chat model, in place of its own
    seed: int = 0  # of the faults
    habits: Habits = field(default_factory=Habits)
    pace: JobPace = field(default_factory=JobPace)


class OpenAIServer:
    """One server; `start` and `stop` keep its books, files and jobs."""

    def __init__(self, settings: Settings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.settings = settings or Settings()
        self.books = Books()
        self.faults = Faults(self.settings.seed)
        self.files = Files()
        self.jobs = Jobs(self.files, self.settings.pace)
        self.limits = Limits(None, None, 1.0)
        self.renew_limits()
        self._host, self._port = host, port
        self._http: HttpServer | None = None
        self._thread: threading.Thread | None = None

    def renew_limits(self) -> None:
        """Full buckets of the size that the settings say."""
        settings = self.settings
        self.limits = Limits(settings.requests_per_minute, settings.tokens_per_minute, settings.burst_s)

    @property
    def url(self) -> str:
        """What `base_url` takes."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def root(self) -> str:
        """Without /v1: of /_state and /_misbehave."""
        return f"http://{self._host}:{self._port}"

    @property
    def key(self) -> str:
        return self.settings.key or "none"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        return {"OPENAI_API_KEY": self.key}

    @property
    def requests(self) -> list[Row]:
        """Every request so far, in the order in which they came."""
        with self.books.lock:
            return list(self.books.rows)

    @property
    def billed(self) -> dict[str, int]:
        """Billed requests by operation; 0 for an operation that was not billed."""
        return self.books.billed

    def misbehave(self, *rules: Fault | dict[str, Any], **rule: Any) -> None:
        """These rules, and no others, from now on: `misbehave(kind="rate_limit", on="chat", share=0.1)`, or several."""
        self.faults.set([*rules, rule] if rule else rules)

    def behave(self) -> None:
        """No fault any more."""
        self.faults.set(())

    def change(self, values: dict[str, Any]) -> dict[str, Any]:
        """Other settings from now on, by name; `habits` and `pace` as objects of their own fields."""
        for name, value in values.items():
            if name == "habits":
                value = Habits(**value)
            elif name == "pace":
                value = self.jobs.pace = JobPace(**value)
            elif name not in Settings.__dataclass_fields__:
                raise ValueError(f"no such setting: {name}")
            setattr(self.settings, name, value)
        if values.keys() & {"requests_per_minute", "tokens_per_minute", "burst_s"}:
            self.renew_limits()
        return {"changed": sorted(values)}

    def start(self) -> None:
        """Listen; the port stays the same when it is started again."""
        tokens.load()  # or the first request would wait for it
        self._http = HttpServer((self._host, self._port), self)
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._http.close_all()
            self._thread.join()
            self._http = self._thread = None

    def context_tokens(self, model: str) -> int:
        """What a model reads at most."""
        if self.settings.context_tokens is not None:
            return self.settings.context_tokens
        tuned = self.jobs.model(model)
        return CHAT_MODELS.get(tuned.base if tuned else model, 128_000)

    def model_names(self) -> Iterable[str]:
        """Every model that can be called."""
        return (*CHAT_MODELS, *EMBEDDING_MODELS, *self.settings.models, *self.jobs.models())

    def to_json(self, *, with_rows: bool = False) -> dict[str, Any]:
        """The state, as GET /_state gives it."""
        found = self.books.to_json(with_rows=with_rows)
        return {**found, "jobs": self.jobs.peek(), "files": self.files.list()}


@contextmanager
def openai_server(**settings: Any) -> Iterator[OpenAIServer]:
    """A running server on a free port; see `Settings` for the names."""
    server = OpenAIServer(Settings(**settings))
    server.start()
    try:
        yield server
    finally:
        server.stop()
