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


def test_a_log_gets_a_line_of_what_is_done_and_the_time_left(clock, capsys):
    with progress.Board("study", 14.0, 5.0) as board:
        clock[0] += progress.LOG_EVERY_S - 1
        board.update(7.0, "train")
        assert capsys.readouterr().err == ""
        clock[0] += 31
        board.update(8.0, "train")
        assert capsys.readouterr().err.splitlines() == [
            "about 2 min left on this machine, as far as the first 60 s tell",
            "study: 57% train | 2.0 min left",  # 6 units at 20 s
        ]
        board.update(14.0, "", last=True)
        assert capsys.readouterr().err == "study: 100% \n"


def test_the_time_that_a_job_takes_is_said_once(clock, capsys):
    """Nothing is said of the start alone: most of its time is that of compiling."""
    with progress.Board("study", 20.0, 0.0) as board:
        for seconds, done in ((-1, 1.0), (1, 0.3), (5, 2.0), (9, 2.2)):
            clock[0] = 100.0 + progress.FIRST_S + seconds
            board.update(done, "train")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("about ")]
    assert said == ["about 8 min left on this machine, as far as the first 50 s tell"]  # 18 units at 25 s


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
