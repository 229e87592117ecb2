"""Progress in a log: one line for all jobs, with the time left of the slowest."""

from __future__ import annotations

import pytest

from pivot_jax import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_what_every_job_does_and_the_time_left(clock, capsys):
    board = progress.Board({"a": 10.0, "b": 4.0}, {"a": 5.0, "b": 0.0})
    with board:
        clock[0] += progress.LOG_EVERY_S - 1
        board.update({"a": (6.0, "train"), "b": (1.0, "probe")})
        assert capsys.readouterr().err == ""
        clock[0] += 31
        board.update({"a": (6.0, "train"), "b": (1.0, "probe")})
        assert capsys.readouterr().err == "a: 60% train | b: 25% probe | 4.0 min left\n"
        board.update({"a": (6.0, "train"), "b": (0.0, "wait")}, last=True)
        assert capsys.readouterr().err == "a: 60% train | b: 0% wait\n"


def test_one_job_counts_only_what_was_done_now(clock, capsys):
    with progress.progress("rows", 100, done=50) as advance:
        clock[0] += 60
        advance(10)
        advance(5)
    assert capsys.readouterr().err == "rows: 60/100, 60 s, 240 s left\n"


def test_the_time_left_does_not_count_the_compilation_of_the_first_step(clock, capsys):
    with progress.progress("steps", 100) as advance:
        clock[0] += 50
        advance()
        clock[0] += 40
        advance(10)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "steps: 1/100, 50 s, 4950 s left"  # nothing else is known yet
    assert second == "steps: 11/100, 90 s, 356 s left"
