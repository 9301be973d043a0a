"""What a running stage tells the world: log lines and progress.

A stage calls `log`, `warn` and `progress`; where the events go is decided once, by whoever started the process,
with `send_events_to`. Events are for eyes only: nothing is decided on them.
"""

from radit_job.observe.events import Event, Progress, log, progress, send_events_to, warn

__all__ = ["Event", "Progress", "log", "progress", "send_events_to", "warn"]
