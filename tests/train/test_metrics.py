"""Log lines: their content, those that a resumed run drops, and how they are read."""

from __future__ import annotations

import errno
import io
import json

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import SessionLog

from pivot_jax.errors import UserError
from pivot_jax.train import metrics
from pivot_jax.train.metric_names import VERL, original, original_name, renamed
from pivot_jax.train.metrics import Board, JsonLines, TextTable, last_step, open_trackers, read
from tests.tiny.events import read as read_events


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


def test_a_broken_line_is_an_error_and_not_the_end_of_the_log(tmp_path):
    """A resumed run would otherwise drop the lines after it."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    for use in (read, lambda path: JsonLines(path, 3)):
        with pytest.raises(UserError, match="metrics.jsonl, line 2: no JSON object with a 'step'; remove the line"):
            use(file)
    assert file.read_text() == '{"step": 1}\n{"st\n{"step": 3}\n'


def test_tensorboard_hides_lines_that_a_resumed_run_writes_again(tmp_path):
    for resumed in (0, 1):
        trackers = open_trackers(tmp_path, resumed)
        for step in range(resumed + 1, 4):
            for tracker in trackers:
                tracker.write(step, {"loss": step + 10.0 * resumed})
        for tracker in trackers:
            tracker.close()
    events = read_events(tmp_path / "tensorboard")
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


def test_tables_go_to_tensorboard_as_literal_text_with_images(tmp_path):
    """TensorBoard renders Markdown and some HTML; a model's answer must not become either. jsonl has numbers only."""
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(buffer, "PNG")
    hostile = "  <img src=x onerror=alert(1)>\n# a_b *c* | [d](javascript:e) ~1. & \\"
    table = TextTable("completions", ("prompt", "reward"), ((hostile, "1"), ("b", "0.5")), (buffer.getvalue(),))
    for tracker in open_trackers(tmp_path, 0):
        tracker.show(7, table)
        tracker.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    (event,) = [event for event in read_events(tmp_path / "tensorboard") if event.summary.value]
    text, image = event.summary.value
    assert event.step == 7 and text.tag == "completions/text_summary" and image.tag == "completions/image/0"
    assert text.metadata.plugin_data.plugin_name == "text"
    assert [dim.size for dim in text.tensor.tensor_shape.dim] == [3, 2]
    cells = [cell.decode() for cell in text.tensor.string_val]
    escaped = (
        r"&nbsp;&nbsp;&lt;img src=x onerror=alert\(1\)&gt;<br>"
        r"\# a\_b \*c\* \| \[d\]\(javascript:e\) ~1\. &amp; \\"
    )
    assert cells == ["prompt", "reward", escaped, "1", "b", r"0\.5"]
    assert (image.image.width, image.image.height, image.image.colorspace) == (30, 20, 3)
    assert image.image.encoded_image_string == buffer.getvalue()


def test_verls_names_and_trls_are_pairs():
    """Both directions are unique, so a file of either can be read; no name means something in both."""
    theirs = list(VERL.values())
    assert len(set(theirs)) == len(theirs) and not set(theirs) & set(VERL)
    logged = {"reward": 1.0, "policy_loss": 2.0, "rewards/math/mean": 3.0, "perf/rollout_s": 4.0}
    verl = renamed(logged, "verl")
    assert verl == {"critic/rewards/mean": 1.0, "actor/pg_loss": 2.0, "rewards/math/mean": 3.0, "timing_s/gen": 4.0}
    assert renamed(logged, "trl") == original(verl) == original(logged) == logged
    assert [original_name(name) for name in ("-actor/ppo_kl", "reward", "-loss", "")] == [
        "-ppo_kl",
        "reward",
        "-loss",
        "",
    ]


def test_a_file_of_either_vocabulary_is_read_under_trls_names(tmp_path):
    """A run may have been resumed with the other setting, or evaluated at a step that it logged."""
    file = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "reward": 1.0},
        {"step": 2, "critic/rewards/mean": 2.0},
        {"step": 2, "eval/heldout/reward": 3.0},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read(file) == [{"step": 1, "reward": 1.0}, {"step": 2, "reward": 2.0, "eval/heldout/reward": 3.0}]
