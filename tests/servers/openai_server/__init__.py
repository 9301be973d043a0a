"""An OpenAI server for tests that have no key: HTTP outside, books that are exact inside.

    with openai_server(requests_per_minute=600, latency_s=0.1) as server:
        server.url, server.key, server.environment        # for the client under test: OpenAI's own, unchanged
        server.misbehave(kind="rate_limit", on="chat", share=0.1, retry_after_s=0.2)
        server.billed["chat"], server.requests, server.books.duplicates("chat")

    python -m tests.servers.openai_server --port 8081      # the same as a process
    GET /_state (?rows=1: every request), POST /_misbehave (a list of rules, [] for none), POST /_settings (by name)

Why it exists: money. That a killed stage pays for nothing twice, that a lost answer does not start a second fine-tuning
job, that a budget holds, can only be shown against a server that counts what it would bill, and that fails on demand
and repeatably. OpenAI's service does neither, and a mock of the client would skip all that goes wrong in between.

What it knows of language is in `skills`: it recognises a task by the words of its prompt and answers from the text that
the prompt holds. Fault kinds: `faults`. Settings: `server.Settings`, `skills.Habits` (how well the models work),
`fine_tuning.JobPace`. Requests are kept as `state.Row`.

Billed is what was worked out, delivered or not; a refusal (401, 404, 429, 500 before the work) is not billed. A job is
billed once, when it is created; its training tokens are entered when it succeeds.

Words: OpenAI's where they are known. Ours, because theirs are not: cancelling a job that has ended, an empty content or
a wrong last role in a training file, an `after` that names nothing. Not there: tools, images, audio, batches, the
responses API, organisations, tokens of reasoning, checkpoints of a job (the list is empty).
"""

from tests.servers.openai_server.faults import Fault
from tests.servers.openai_server.fine_tuning import JobPace
from tests.servers.openai_server.server import KEY, OpenAIServer, Settings, openai_server
from tests.servers.openai_server.skills import Habits

__all__ = ["KEY", "Fault", "Habits", "JobPace", "OpenAIServer", "Settings", "openai_server"]
