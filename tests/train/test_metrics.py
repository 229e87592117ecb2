"""Log lines: their content, those that a resumed run drops, and how they are read."""

from __future__ import annotations

import errno
import json

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pivot_jax.errors import UserError
from pivot_jax.train import metrics
from pivot_jax.train.metrics import Board, JsonLines, last_step, open_trackers, read


def test_a_full_disk_does_not_block_tensorboard(tmp_path, monkeypatch):
    """tensorboardX's usual queue would block after ten events that cannot be written."""
    board = Board(tmp_path / "tensorboard", 1)

    def full(self, event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics.EventsWriter, "write_event", full)
    for step in range(2, 40):
        with pytest.raises(UserError, match="tensorboard could not be written .No space left on device.; free disk"):
            board.write(step, {"loss": 1.0})
    board.close()


def test_nan_is_null_and_a_resumed_run_drops_later_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"
    log = JsonLines(file, 0)
    log.write(1, {"loss": 1.0, "odd": float("nan")})
    log.write(2, {"loss": 2.0})
    log.close()
    assert read(file) == [{"step": 1, "loss": 1.0, "odd": None}, {"step": 2, "loss": 2.0}]
    JsonLines(file, 1).close()
    assert [row["step"] for row in read(file)] == [1]


def test_tensorboard_hides_lines_that_a_resumed_run_writes_again(tmp_path):
    for resumed in (0, 1):
        trackers = open_trackers(tmp_path, resumed)
        for step in range(resumed + 1, 4):
            for tracker in trackers:
                tracker.write(step, {"loss": step + 10.0 * resumed})
        for tracker in trackers:
            tracker.close()
    events = []
    for file in sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    losses = [(event.step, event.summary.value[0].simple_value) for event in events if event.summary.value]
    assert losses[-2:] == [(2, 12.0), (3, 13.0)] and (1, 1.0) in losses
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [1, 2]


def test_lines_of_one_step_are_one_row(tmp_path):
    """The later value counts; the line that a kill truncated is skipped."""
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval/a/b": 1.0}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    assert read(file) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "eval/a/b": 1.0}]
    assert last_step(file) == 2
    with pytest.raises(UserError, match="has the run started"):
        read(tmp_path / "none.jsonl")
    assert last_step(tmp_path / "none.jsonl") == 0
