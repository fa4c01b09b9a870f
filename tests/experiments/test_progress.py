"""The time left of an experiment, by a clock that the test sets."""

from types import SimpleNamespace

import pytest

from dtn_ray.experiments import progress
from dtn_ray.experiments.progress import Times, line


def training(key: str, kind: str = "dtn", size: float = 100.0) -> SimpleNamespace:
    return SimpleNamespace(key=key, kind=kind, size=size)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_nothing_is_known_before_anything_was_told(clock):
    times = Times(at_once=2)
    times.start(training("a"))
    assert times.left([training("a"), training("b")], {}) is None
    assert times.left([], {}) == 0


def test_a_running_training_tells_of_those_of_its_kind(clock):
    times, trainings = Times(at_once=2), [training("a"), training("b"), training("c", size=200.0)]
    times.start(trainings[0])
    clock.seconds = 10.0
    # A quarter in 10 s: 40 s for 100 steps. Left: 30 + 40 + 80 s, on two places.
    assert times.left(trainings, {"a": (0.0, 0.25)}) == pytest.approx(75)


def test_what_an_earlier_call_had_done_does_not_count_as_fast(clock):
    times, trainings = Times(at_once=1), [training("a")]
    times.start(trainings[0])
    clock.seconds = 10.0
    assert times.left(trainings, {"a": (0.5, 0.75)}) == pytest.approx(10)
    clock.seconds = 20.0
    times.end(trainings[0], (0.5, 1.0))
    assert times.left([training("b")], {}) == pytest.approx(40)


def test_a_kind_that_nothing_is_known_of_counts_as_the_others(clock):
    times = Times(at_once=1)
    times.start(training("a"))
    clock.seconds = 30.0
    times.end(training("a"), (0.0, 1.0))
    assert times.left([training("b"), training("c", kind="dann", size=9)], {}) == pytest.approx(60)


def test_a_line_says_what_is_done_and_what_runs():
    assert line("table1", 3, 21, 125, {"dtn-a": 0.25}) == "table1 3/21 · 02:05 left · dtn-a 25%"
    assert line("table1", 0, 21, None, {}) == "table1 0/21 · ? left"
