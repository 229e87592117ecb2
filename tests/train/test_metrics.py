"""Log lines: their content, those that a resumed run drops, and how they are read."""

from __future__ import annotations

import json

import pytest

from pivot_jax.errors import UserError
from pivot_jax.train.metric_names import VERL, original, original_name, renamed
from pivot_jax.train.metrics import JsonLines, last_step, read


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
