"""How many questions the benchmark asks. Pure."""

from __future__ import annotations

from radit_job.config.schema import Config
from radit_job.latency.rounds import n_asked


def n_timed_questions(config: Config, n_questions: int) -> int:
    """How often each task is asked: in a warm-up once by each client, in a round that counts with every question."""
    benchmark = config.benchmark
    return sum(
        benchmark.warmup * n_clients + benchmark.repetitions * n
        for n_clients in benchmark.concurrency
        if (n := n_asked(benchmark.queries, n_clients, n_questions))
    )


def n_embedded(config: Config, n_questions: int) -> int:
    """How many questions a served embedder gets: each query's, and once more those whose bare prompts are wanted.

    At most: a baseline asks again, and with several clients in one round only.
    """
    benchmark = config.benchmark
    n_different = max((n_asked(benchmark.queries, n, n_questions) for n in benchmark.concurrency), default=0)
    n_engines = 2 if benchmark.baseline and config.models.lm.provider != "openai" else 1
    return n_engines * (n_timed_questions(config, n_questions) + n_different)
