"""Logs of five programs and of one's own columns, and what a malformed one is told."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from pivot_jax.errors import UserError
from pivot_jax.rl.scheme.logs import LogSettings, Response, read


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_this_projects_own(tmp_path):
    row = {
        "id": "q1", "sample": 0, "prompt": "How many?", "images": ["a.png"], "answer": "3", "completion": "It is 3.",
        "finish": "length", "tokens": 5, "reward": 1.5, "rewards": {"math": 1.0, "format": 0.5}, "version": 20,
    }  # fmt: skip
    lines(tmp_path / "completions" / "7.jsonl", [row])
    lines(tmp_path / "completions" / "10.jsonl", [row | {"version": 30, "finish": "stop"}])
    lines(tmp_path / "eval" / "heldout-30.jsonl", [row | {"version": 30}])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    found = list(read(tmp_path, LogSettings(columns={"correct": "rewards.math"})))
    assert found[0] == Response("q1", "It is 3.", 20.0, 1.0, "3", "train", "", 5, True, "How many?", ("a.png",))
    assert [(one.step, one.split, one.truncated) for one in found[1:]] == [(30.0, "train", False), (30.0, "val", True)]
    assert next(read(tmp_path)).correct == 1.5  # the whole reward


def test_trl(tmp_path):
    """A conversation's texts, the one accuracy among the rewards, files in the order of their steps."""
    messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]] * 2
    answers = [[{"role": "assistant", "content": text}] for text in ("3", "4")]
    rewards = {"accuracy_reward": [1.0, 0.0], "think_format_reward": [0.0, 1.0], "advantage": [0.7, -0.7]}
    for step in (10, 9):
        columns = {"step": [step] * 2, "prompt": messages, "completion": answers} | rewards
        parquet(tmp_path / "completions" / f"completions_{step:05d}.parquet", columns)
    found = list(read(tmp_path, LogSettings(split="train", setting="T=1")))
    assert [(one.step, one.text, one.correct) for one in found] == [
        (9, "3", 1),
        (9, "4", 0),
        (10, "3", 1),
        (10, "4", 0),
    ]
    assert {(one.question, one.split, one.setting) for one in found} == {("How many?", "train", "T=1")}
    two = {"step": [1], "prompt": ["a"], "completion": ["b"], "first": [1.0], "second": [0.0]}
    file = parquet(tmp_path / "two.parquet", two)
    assert next(read(file)).correct is None  # which of the two it is has to be said
    assert next(read(file, LogSettings(columns={"correct": "first"}))).correct == 1.0


def test_verl(tmp_path):
    rows = [{"input": "q", "output": "it is 3", "gts": "3", "score": -1.0, "step": 20, "acc": False}]
    lines(tmp_path / "20.jsonl", rows)
    lines(tmp_path / "5.jsonl", [{"input": "q", "output": "it is 3", "score": 1.0}])
    found = list(read(tmp_path))
    assert [(one.step, one.correct, one.gold) for one in found] == [(5.0, 1.0, None), (20.0, 0.0, "3")]


def test_easyr1(tmp_path):
    """Rounds of validation follow each other in one file; an output may have several lines."""
    block = "[prompt] {}\n[output] first\n\nsecond [output] line\n[ground_truth] 3\n[score] {}\n\n"
    asked = ("one", "one", "two", "one", "one", "two")
    (tmp_path / "generations.log").write_text("".join(block.format(name, 0.9) for name in asked))
    found = list(read(tmp_path))
    assert [(one.question, one.step) for one in found] == list(zip(asked, (0, 0, 0, 1, 1, 1), strict=True))
    assert found[0].text == "first\n\nsecond [output] line" and (found[0].gold, found[0].correct) == ("3", 0.9)


def test_vlm_r1(shared_data):
    """The evaluation of a real GRPO run: recorded accuracy 38.73 % of 754 questions."""
    found = list(read(shared_data / "eval_outputs/rl_logs/geoqa_test_qwen2vl_7b_grpo_2epochs_legacy.json.gz"))
    assert len(found) == len({one.question for one in found}) == 754
    assert 100 * sum(one.correct for one in found) / 754 == pytest.approx(38.7268, abs=1e-4)
    assert found[0].gold == "140°" and found[0].text.startswith("<think>") and found[0].images


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz", "own.json", "own.parquet"])
def test_columns_of_ones_own(tmp_path, name):
    rows = [{"uid": 7, "answer": {"text": "3", "ok": True}, "epoch": 2, "kind": "test"}]
    if name.endswith(".parquet"):
        parquet(tmp_path / name, {key: [row[key] for row in rows] for key in rows[0]})
    else:
        text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    columns = {"question": "uid", "text": "answer.text", "correct": "answer.ok", "step": "epoch", "split": "kind"}
    assert list(read(tmp_path / name, LogSettings(columns=columns))) == [
        Response("7", "3", 2.0, 1.0, split="test"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("5.jsonl", '{"input": "q", "output": "a", "score": 1}\n{"input" "q"}\n', {}, r"5\.jsonl:2.*column 10"),
        ("5.jsonl", '{"input": "q", "output": "a", "score": "high"}\n', {}, r"5\.jsonl:1: score: 'high' is no number"),
        ("5.jsonl", '{"input": "q"}\n', {"format": "verl"}, r"5\.jsonl:1: field 'output' is missing; --columns text="),
        ("5.jsonl", "[1]\n", {"format": "verl"}, r"5\.jsonl:1.*not an object"),
        ("a.json", '{"results": [\n {"question": }]}', {}, r"a\.json, line 2, column 15: no JSON"),
        ("a.json", '{"results": [\n {"question": }]}', {"format": "vlm-r1"}, r"a\.json, line 2, column 15: no JSON"),
        ("a.json", '{"results": [3]}', {"format": "vlm-r1"}, r"results\[0\]: it is int, not an object"),
        ("a.json", '{"rows": []}', {"format": "vlm-r1"}, r"no list 'results' in it"),
        ("a.log", "[prompt] q\n[score] 1\n", {}, r"a\.log, line 2, column 1: a \[score\] without \[output\] before"),
        ("a.log", "nothing\n", {}, r"not recognised"),
        ("a.log", "nothing\n", {"format": "easyr1"}, r"no responses in format 'easyr1'"),
        ("c.parquet", "not Parquet", {}, r"c\.parquet: not a Parquet file"),
        ("5.jsonl", '{"a": 1}\n', {"columns": {"text": "a"}}, r"not recognised"),
        ("5.jsonl", '{"a": 1}\n', {"format": "columns"}, r"5\.jsonl:1: no column for 'question'; name it with --col"),
    ],
)
def test_a_malformed_log_is_named(tmp_path, name, content, settings, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        list(read(tmp_path / name, LogSettings(**settings)))
    assert "\n" not in str(error.value)


def test_settings_that_do_not_exist():
    with pytest.raises(UserError, match="format 'trll' is unknown; did you mean 'trl'"):
        LogSettings("trll")
    with pytest.raises(UserError, match="columns: no field 'txt'; did you mean 'text'"):
        LogSettings(columns={"txt": "a"})
    with pytest.raises(UserError, match=r"gone does not exist"):
        list(read("gone"))
