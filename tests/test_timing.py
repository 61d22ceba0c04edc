"""Timing of benchmarks: what is called, how often, and in which order."""

from types import SimpleNamespace

import pytest

from benchmarks import timing
from benchmarks.timing import cpu_times


@pytest.mark.parametrize("warm", [False, True])
def test_candidates_take_turns_and_short_ones_run_before(monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    monkeypatch.setattr(timing, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(timing, "wait_for_rest", lambda: calls.append("rest"))
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in ("one", "other")}
    frame = cpu_times(candidates, repetitions=3, seconds=0.0, warm=warm)
    first = ["one"] * 2 + ["other"] * 2
    each = ["rest", "one", "one", "rest", "other", "other"] if warm else ["one", "other"]
    assert calls == first + 3 * each
    assert frame["name"].tolist() == ["one", "other"] and frame["ratio"].iloc[0] == 1.0


def test_short_calls_run_until_the_processor_is_at_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(timing, "time", SimpleNamespace(process_time=lambda: 0.1 * next(ticks)))
    calls: list[int] = []
    timing._warm_up(lambda: calls.append(1))
    assert len(calls) == 3  # a tenth of a second each


def test_calls_that_are_long_run_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARMED_SECONDS", 0.0)
    calls: list[str] = []
    cpu_times({"one": lambda: calls.append("one")}, repetitions=2, seconds=0.0, warm=True)
    assert calls == ["one"] * 4


def test_the_wait_for_threads_ends_when_none_computes_or_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    ticks = iter(range(100))
    busy = SimpleNamespace(monotonic=lambda: next(ticks), process_time=lambda: float(next(ticks)), sleep=slept.append)
    monkeypatch.setattr(timing, "time", busy)
    # Each turn of the loop reads three times, from 1 on.
    timing.wait_for_rest(10.0)
    assert slept == [timing.REST_SECONDS] * 3
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: 0.0, process_time=lambda: 5.0, sleep=slept.append))
    timing.wait_for_rest()
    assert len(slept) == 4
