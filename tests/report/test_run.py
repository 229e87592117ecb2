"""The page of a run: its curves, and the sampled responses of online RL, whatever a model writes into them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.report import run
from pivot_jax.train.lock import locked
from tests.report.reader import read
from tests.tiny import tracked
from tests.tiny.commands import run as command
from tests.tiny.events import read as read_events

HOSTILE = "</div><script>alert(1)</script><img src='http://x/y.png'> \u2028 & so on"


def line(prompt, sample, completion, images, **changes):
    values = {
        "id": f"row{prompt}", "sample": sample, "prompt": f"<image>\nQuestion {prompt}?", "images": images,
        "completion": completion, "finish": "stop", "tokens": 12, "logp": -34.5, "reward": 0.25 + prompt,
        "rewards": {"math": 0.125, "format": None}, "advantage": -1.375, "trained": True, "version": 0,
    }  # fmt: skip
    return values | changes


@pytest.fixture
def workdir(tmp_path):
    """A run of 7 rollouts, whose files are written by hand."""
    folder = tmp_path / "run"
    (folder / "completions" / "images").mkdir(parents=True)
    (folder / "eval").mkdir()
    changes = {"name": "sums <b>", "objective.name": "policy", "rl.algorithm": "trl-grpo"}
    (folder / "config.json").write_text(configs.to_json(configs.load("", changes)))
    rows = [
        {"step": s, "reward": s / 8, "rewards/math/mean": 0.1, "completions/clipped_ratio": 0.5 - s / 20, "loss": 0.0,
         "completions/mean_length": 20.0 + s, "perf/rollout_s": 1.0, "entropy": None}
        for s in range(1, 8)
    ]  # fmt: skip
    rows.append({"step": 7, "eval/heldout/reward": 0.625})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.fromarray(np.full((300, 600, 3), (250, 10, 10), np.uint8)).save(tmp_path / "red.png")
    Image.fromarray(np.full((20, 20, 3), 9, np.uint8)).save(folder / "completions/images/ab.png")

    def write(path, lines):
        (folder / path).write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))

    for number in range(7):
        images = [str(tmp_path / "red.png"), "completions/images/ab.png"]
        lines = [line(p, s, f"answer {number}.{p}.{s}", images) for p in range(6) for s in range(5)]
        write(f"completions/{number:06d}.jsonl", lines)
    write("completions/000000.jsonl", [line(0, 0, HOSTILE, ["gone.png", "<ndarray>"], advantage=None, finish="length")])
    write("completions/000000-1.jsonl", [line(9, 0, "of another process", [])])
    write("eval/heldout-3.jsonl", [line(0, 0, "held out, early", [], advantage=None)])
    write("eval/heldout-7.jsonl", [line(0, 0, "held out, last", [], advantage=None)])
    return folder


def test_the_page_is_safe_and_complete(workdir):
    assert command("report", "--workdir", workdir, "--rollouts", 3) == 0
    text = (workdir / "report.html").read_text()
    reader = read(text)
    assert "<script" not in text and "&lt;/div&gt;&lt;script&gt;alert(1)" in text and "sums &lt;b&gt;" in text
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    # Two rollouts of four prompts with two images each; those of the first rollout are not there.
    assert len(reader.sources) == 16
    assert "gone.png does not exist" in text and "image not kept (rl.show_every" in text
    for shown in ("Rollout 0", "Rollout 3", "Rollout 6", "of another process", "Held-out prompts after step 7"):
        assert shown in text
    for shown in ("answer 3.0.0", "answer 6.3.3", "held out, last", "−1.375", "0.125", "−34.5", "Question 9?"):
        assert shown in text
    # Not these: other rollouts, the fifth prompt, the fifth response, an earlier evaluation.
    for left_out in ("answer 2.", "answer 6.4.", "answer 6.0.4", "held out, early"):
        assert left_out not in text
    assert "30 responses to 6 prompts in all" in text


def test_the_curves_are_those_of_the_log(workdir):
    report = run.build(workdir)
    charts = {section.title: section.blocks[0].svg for section in report.sections if section.title in run.CHARTS}
    assert set(charts) == {"Rewards", "Responses", "Evaluation", "Optimization", "Time"}
    for title, name in (
        ("Rewards", "reward"), ("Rewards", "rewards/math/mean"), ("Responses", "completions/mean_length"),
        ("Responses", "completions/clipped_ratio"), ("Evaluation", "eval/heldout/reward"), ("Time", "perf/rollout_s"),
    ):  # fmt: skip
        assert f">{name}<" in charts[title]
    assert ">entropy<" not in charts["Responses"], "it has no finite value"
    facts = {fact.label: fact.value for fact in report.facts}
    assert facts == {
        "reward": 0.875, "eval/heldout/reward": 0.625, "completions/mean_length": 27.0,
        "completions/clipped_ratio": pytest.approx(0.15),
    }  # fmt: skip


def test_a_thumbnail_is_small(workdir):
    (image,) = {
        image.shape: image
        for section in run.build(workdir, 1).sections
        if section.title == "Completions"
        for block in section.blocks
        for prompt in block.prompts
        for image in prompt.images
        if not isinstance(image, str) and image[0, 0, 0] == 250
    }.values()
    assert image.shape == (128, 256, 3)


def test_rollouts_are_spread_between_the_first_and_the_last():
    assert run.spread([0, 1, 2, 3, 4, 5, 6], 3) == [0, 3, 6]
    assert run.spread([2, 5], 5) == [2, 5] and run.spread([2, 5, 9], 1) == [9] and run.spread([], 3) == []


def test_long_texts_lose_their_middle():
    text = "a" * 3000 + "b" * 3000
    shown = run.shortened(text)
    assert shown.startswith("a" * 2000) and shown.endswith("b" * 2000) and "2000 characters" in shown
    assert run.shortened("a" * 4000) == "a" * 4000


def test_other_runs_have_curves_only(workdir):
    (workdir / "config.json").write_text(configs.to_json(configs.load("", {"objective.name": "dpo"})))
    report = run.build(workdir)
    titles = [section.title for section in report.sections]
    assert "Optimization" in titles and "Completions" not in titles
    assert [fact.label for fact in report.facts] == ["loss"]


def test_a_tracker_gets_the_page_and_what_it_lacks(workdir, capsys):
    """The log of a run whose tracker failed, or that had none; not while the run is in progress."""
    for _ in range(2):
        assert command("report", "--workdir", workdir, "--track") == 0
    shown, log = tracked.of_tensorboard(workdir), tracked.of_log(workdir)
    assert sorted(shown) == list(range(1, 8)) and shown[7]["eval/heldout/reward"] == 0.625
    assert all(shown[step]["reward"] == log[step]["reward"] for step in log)
    (first, second) = [
        value.tensor.string_val[1].decode().replace("\\", "")
        for event in read_events(workdir / "tensorboard")
        for value in event.summary.value
        if value.tag == "files/report/text_summary"
    ]
    assert first == second == str(workdir / "report.html")
    with locked(workdir):
        assert command("report", "--workdir", workdir, "--track") == 1
    assert "a run is training there already" in capsys.readouterr().err


def test_what_is_no_run_is_an_error(workdir, tmp_path, capsys):
    assert command("report", "--workdir", tmp_path / "none") == 1
    assert "is not a run's workdir" in capsys.readouterr().err
    (workdir / "completions/000006.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"000006.jsonl is damaged"):
        run.build(workdir)
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has no lines yet"):
        run.build(workdir)
