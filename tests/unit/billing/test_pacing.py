"""Calls are spread over time, and pause after a 429."""

from billing.pacing import PAUSE_AFTER_REFUSAL_S, Pace


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def test_calls_are_spread_evenly() -> None:
    time = Time()
    pace = Pace(4, monotonic_s=time.monotonic, sleep=time.sleep)
    for _ in range(5):
        pace.wait()
    assert time.slept == [0.25] * 4


def test_idle_time_is_not_saved_up() -> None:
    time = Time()
    pace = Pace(4, monotonic_s=time.monotonic, sleep=time.sleep)
    pace.wait()
    time.now_s += 60
    for _ in range(3):
        pace.wait()
    assert time.slept == [0.25, 0.25]


def test_nobody_goes_right_after_a_refusal() -> None:
    time = Time()
    pace = Pace(1_000, monotonic_s=time.monotonic, sleep=time.sleep)
    pace.slow_down()
    pace.wait()
    assert time.slept == [PAUSE_AFTER_REFUSAL_S]


def test_zero_is_no_limit() -> None:
    time = Time()
    pace = Pace(0, monotonic_s=time.monotonic, sleep=time.sleep)
    for _ in range(1_000):
        pace.wait()
    assert time.slept == []
