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
    board = progress.Board({"a": 10.0, "b": 4.0}, {"a": 5.0, "b": 0.0}, 2)
    with board:
        clock[0] += progress.LOG_EVERY_S - 1
        board.update({"a": (6.0, "train"), "b": (1.0, "probe")})
        assert capsys.readouterr().err == ""
        clock[0] += 31
        board.update({"a": (6.0, "train"), "b": (1.0, "probe")})
        assert capsys.readouterr().err.splitlines() == [
            "about 4 min left on this machine, as far as the first 60 s tell",
            "a: 60% train | b: 25% probe | 4.0 min left",
        ]
        board.update({"a": (6.0, "train"), "b": (0.0, "wait")}, last=True)
        assert capsys.readouterr().err == "a: 60% train | b: 0% wait\n"


def test_the_time_that_jobs_take_is_said_once(clock, capsys):
    """Two jobs of 10 on one core: the second waits, and its time is counted. Nothing is said of the start alone."""
    with progress.Board({"a": 10.0, "b": 10.0}, {"a": 0.0, "b": 0.0}, 1) as board:
        for seconds, done in ((-1, 1.0), (1, 0.3), (5, 2.0), (9, 2.2)):
            clock[0] = 100.0 + progress.FIRST_S + seconds
            board.update({"a": (done, "train"), "b": (0.0, "wait")})
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("about ")]
        assert said == ["about 8 min left on this machine, as far as the first 50 s tell"]  # 18 units at 25 s
        clock[0] = 100.0 + 300
        board.update({"a": (10.0, "done"), "b": (2.0, "train")})
        assert capsys.readouterr().err.endswith("3.3 min left\n")  # 8 units at 25 s


def test_a_finished_job_does_not_slow_the_others(clock, capsys):
    """Of two jobs on two cores one was done before: the other has the speed of one core, not of half of one."""
    with progress.Board({"a": 10.0, "b": 10.0}, {"a": 10.0, "b": 0.0}, 2) as board:
        clock[0] += 60
        board.update({"a": (10.0, "done"), "b": (5.0, "train")}, last=True)
    assert capsys.readouterr().err.endswith("1.0 min left\n")


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
