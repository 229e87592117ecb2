"""TensorBoard's event files: what a resumed run hides, texts that are not rendered, a full disk."""

from __future__ import annotations

import errno
import io
import json

import pytest
from PIL import Image

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.train.trackers import tensorboard as module
from pivot_jax.train.trackers.base import Facts, Memory, TextTable
from pivot_jax.train.trackers.table import open_trackers
from pivot_jax.train.trackers.tensorboard import TensorBoard
from tests.tiny import tracked
from tests.tiny.events import read as read_events


def facts(workdir, first_step=1):
    config = {"name": "a <b> *c*", "seed": 0}
    return Facts(workdir, "colours", "", config, first_step, Memory(workdir / "trackers" / "tensorboard.json", {}))


def full(self, event):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_block_tensorboard(tmp_path, monkeypatch):
    """tensorboardX's usual queue would block after ten events that cannot be written."""
    board = TensorBoard(facts(tmp_path))
    monkeypatch.setattr(module.EventsWriter, "write_event", full)
    for step in range(2, 40):
        with pytest.raises(UserError, match="tensorboard could not be written .No space left on device.; free disk"):
            board.write(step, {"loss": 1.0})
    board.close(False)


def test_a_full_disk_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    """As any other tracker: metrics.jsonl is complete, and the resumed run writes the events that are missing."""
    with monkeypatch.context() as patch:
        patch.setattr(module.EventsWriter, "write_event", full)
        trackers = open_trackers(configs.load(), tmp_path, 0)
        trackers.write(1, {"loss": 1.0})
        trackers.close(False)
    assert "could not be written (No space left on device); free disk space" in caplog.text
    trackers = open_trackers(configs.load(), tmp_path, 1)
    trackers.write(2, {"loss": 0.5})
    trackers.close(True)
    assert tracked.of_tensorboard(tmp_path) == tracked.of_log(tmp_path) == {1: {"loss": 1.0}, 2: {"loss": 0.5}}


def test_a_resumed_run_hides_lines_that_it_writes_again(tmp_path):
    for resumed in (0, 1):
        trackers = open_trackers(configs.load(), tmp_path, resumed)
        for step in range(resumed + 1, 4):
            trackers.write(step, {"loss": step + 10.0 * resumed})
        trackers.close(True)
    events = read_events(tmp_path / "tensorboard")
    assert [event.step for event in events if event.session_log.status] == [1, 2]
    assert tracked.of_tensorboard(tmp_path) == {1: {"loss": 1.0}, 2: {"loss": 12.0}, 3: {"loss": 13.0}}


def test_events_of_an_earlier_version_are_written_again(tmp_path):
    """It remembered nothing of what it had written."""
    log = "".join(json.dumps({"step": step, "loss": float(step)}) + "\n" for step in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(log)
    board = TensorBoard(facts(tmp_path))
    for step in (1, 2, 3):
        board.write(step, {"loss": float(step)})
    board.close(False)
    trackers = open_trackers(configs.load(), tmp_path, 2)
    trackers.write(3, {"loss": 3.5})
    trackers.close(True)
    assert tracked.of_tensorboard(tmp_path) == {1: {"loss": 1.0}, 2: {"loss": 2.0}, 3: {"loss": 3.5}}


def test_tables_are_literal_text_with_images(tmp_path):
    """TensorBoard renders Markdown and some HTML; a model's answer must not become either. jsonl has numbers only."""
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(buffer, "PNG")
    hostile = "  <img src=x onerror=alert(1)>\n# a_b *c* | [d](javascript:e) ~1. & \\"
    rows = ((hostile, "1"), ("b", "0.5"))
    table = TextTable("completions", ("prompt", "reward"), rows, (buffer.getvalue(),), ((0,), (0,)))
    trackers = open_trackers(configs.load(), tmp_path, 0)
    trackers.show(7, table)
    trackers.close(True)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    shown = [event for event in read_events(tmp_path / "tensorboard") if event.step == 7]
    (text,), (image,) = (event.summary.value for event in shown)
    assert text.tag == "completions/text_summary" and image.tag == "completions/image/0"
    assert text.metadata.plugin_data.plugin_name == "text"
    assert [dim.size for dim in text.tensor.tensor_shape.dim] == [3, 3]
    cells = [cell.decode() for cell in text.tensor.string_val]
    escaped = (
        r"&nbsp;&nbsp;&lt;img src=x onerror=alert\(1\)&gt;<br>"
        r"\# a\_b \*c\* \| \[d\]\(javascript:e\) ~1\. &amp; \\"
    )
    assert cells == ["image", "prompt", "reward", "0", escaped, "1", "0", "b", r"0\.5"]
    assert (image.image.width, image.image.height, image.image.colorspace) == (30, 20, 3)
    assert image.image.encoded_image_string == buffer.getvalue()


def test_a_table_without_images_has_no_column_of_them(tmp_path):
    table = TextTable("completions", ("prompt",), (("a",),))
    assert table.numbered() == (("prompt",), (("a",),)) and table.illustrated(bytes) == (("prompt",), [["a"]])
