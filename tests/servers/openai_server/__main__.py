"""`python -m tests.servers.openai_server`: the server as a process; prints its address when it is ready."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from tests.servers.openai_server.fine_tuning import JobPace
from tests.servers.openai_server.server import KEY, OpenAIServer, Settings


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; then write the state file once more."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.openai_server")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--key", default=KEY, help="the only key that is let in; 'any' lets in everybody")
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--requests-per-minute", type=int, default=30_000, help="0: no limit")
    parser.add_argument("--tokens-per-minute", type=int, default=150_000_000, help="0: no limit")
    parser.add_argument("--burst-s", type=float, default=1.0)
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--model", action="append", default=[], help="a further chat model; may be repeated")
    parser.add_argument("--any-model", action="store_true")
    parser.add_argument("--job-polls", type=int, nargs=3, default=(1, 1, 3), help="in each state of a job")
    parser.add_argument("--job-seconds", type=float, nargs=3, help="the same by the clock")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--faults", help="rules as a JSON list, as POST /_misbehave takes them")
    parser.add_argument("--state-file", type=Path, help="GET /_state?rows=1, written every second and at the end")
    given = parser.parse_args()
    settings = Settings(
        key=None if given.key == "any" else given.key,
        latency_s=given.latency_s,
        requests_per_minute=given.requests_per_minute or None,
        tokens_per_minute=given.tokens_per_minute or None,
        burst_s=given.burst_s,
        models=tuple(given.model),
        any_model=given.any_model,
        context_tokens=given.context_tokens,
        seed=given.seed,
        pace=JobPace(tuple(given.job_polls), tuple(given.job_seconds) if given.job_seconds else None),
    )
    server = OpenAIServer(settings, host=given.host, port=given.port)
    if given.faults:
        server.misbehave(*json.loads(given.faults))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    print(server.url, flush=True)
    while not ended.wait(1.0):
        _write(server, given.state_file)
    server.stop()
    _write(server, given.state_file)


def _write(server: OpenAIServer, path: Path | None) -> None:
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(server.to_json(with_rows=True), indent=1))
        partial.replace(path)


if __name__ == "__main__":
    main()
