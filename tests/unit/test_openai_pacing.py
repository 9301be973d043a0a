"""The pace of calls, with a clock that is a number."""

import pytest

from radit_job.models.openai_api.pacing import Pace, Width, duration_s


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def started(pace: Pace, clock: Clock, n: int, *, n_tokens: int = 1) -> list[float]:
    """When n calls could begin, one after the other, by someone who waits exactly as told."""
    times = []
    for _ in range(n):
        while (wait_s := pace.take(n_tokens)) > 0:
            clock.now_s += wait_s
        times.append(clock.now_s - 100.0)
    return times


def headers(remaining: int, reset: str, *, limit: int | None = None, what: str = "requests") -> dict[str, str]:
    told = {f"x-ratelimit-remaining-{what}": str(remaining), f"x-ratelimit-reset-{what}": reset}
    return told if limit is None else {**told, f"x-ratelimit-limit-{what}": str(limit)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("2m59.56s", 179.56),
        ("8.64s", 8.64),
        ("12", 12.0),
        ("1d", 86400.0),
        ("", None),
        ("soon", None),
        ("-1s", None),
        ("2026-01-01T00:00:00Z", None),
        (None, None),
    ],
)
def test_openais_durations(text: str | None, seconds: float | None) -> None:
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def test_without_limits_nobody_waits() -> None:
    clock = Clock()
    assert started(Pace(None, None, clock), clock, 100, n_tokens=10**6) == [0.0] * 100


def test_requests_per_minute_are_spread_evenly() -> None:
    clock = Clock()
    times = started(Pace(60, None, clock), clock, 61)
    assert times[:3] == pytest.approx([0, 1, 2], abs=0.26)
    assert times[60] >= 59.7


def test_tokens_per_minute_are_prompts_and_answers_and_what_was_not_used_is_given_back() -> None:
    clock = Clock()
    pace = Pace(None, 6000, clock)
    times = started(pace, clock, 3, n_tokens=1000)
    assert times == pytest.approx([0, 10, 20], abs=0.3)
    pace.answered({}, n_unused_tokens=900)
    assert started(pace, clock, 1)[0] == pytest.approx(21, abs=0.3)


def test_time_that_was_idle_is_not_caught_up() -> None:
    clock = Clock()
    pace = Pace(60, None, clock)
    started(pace, clock, 1)
    clock.now_s += 3600
    begun_s = clock.now_s - 100.0
    assert started(pace, clock, 10)[-1] >= begun_s + 8


def test_the_servers_bucket_is_mirrored() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.answered(headers(2, "58s", limit=60))  # two are left, one more comes every second
    assert started(pace, clock, 5) == pytest.approx([0, 0, 1, 2, 3])


def test_tokens_that_the_server_has_not_left_are_waited_for() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.answered(headers(100, "59.9s", limit=60_000, what="tokens"))
    assert started(pace, clock, 1, n_tokens=100) == [0.0]
    assert started(pace, clock, 1, n_tokens=2000) == pytest.approx([2.0])


def test_without_a_limit_in_the_headers_the_reset_is_waited_for_and_a_day_is_not() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.answered(headers(0, "20s"))
    assert started(pace, clock, 2) == pytest.approx([20.0, 20.0])
    pace.answered(headers(0, "8h24m", limit=200))
    assert started(pace, clock, 1) == pytest.approx([80.0])


def test_headers_that_make_no_sense_are_ignored() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    for told in (headers(0, "never"), {"x-ratelimit-remaining-requests": "0"}, headers(0, "-5s", limit=0)):
        pace.answered(told)
    assert started(pace, clock, 3) == [0.0] * 3


def test_one_refusal_holds_back_nobody_else_and_a_storm_holds_back_all() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.refused(30.0)
    pace.refused(30.0)
    assert pace.take(1) == 0
    pace.answered({})
    for _ in range(3):
        pace.refused(30.0)
    assert pace.take(1) == pytest.approx(30.0)


def test_a_short_wait_is_taken_for_all() -> None:
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.refused(0.05)
    assert pace.take(1) == pytest.approx(0.05)


def test_fewer_calls_go_at_once_for_each_refusal_and_more_again_with_answers() -> None:
    width = Width(4)
    for _ in range(9):
        width.refused()
    assert width.n_calls == 1
    for _ in range(30):
        width.answered()
    assert width.n_calls == 4


def test_a_tenth_refused_among_many_answers_takes_no_width() -> None:
    width = Width(8)
    for number in range(200):
        width.refused() if number % 10 == 0 else width.answered()
    assert width.n_calls >= 7
