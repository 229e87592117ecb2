"""The command line: help, wrong usage, overrides, exit codes and one-line reasons."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pivot_jax.cli import evaluation, studies
from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.eval.score import score_rows

ROOT = Path(__file__).resolve().parents[1]
STAGE1A = str(ROOT / "configs" / "pivot" / "stage1a.py")


def usage_error(*argv: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    return stopped.value.code


def test_help_comes_fast_and_without_jax():
    """Under a second of CPU time in its own process; wall time would depend on the machine's load."""
    code = (
        "import sys, time\nfrom pivot_jax.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as stop: code = stop.code\n"
        "assert code == 0 and not {'jax', 'flax', 'numpy', 'ml_collections'} & set(sys.modules)\n"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *shown, seconds = done.stdout.splitlines()
    assert any("COMMAND" in line for line in shown) and any("train" in line for line in shown)
    assert float(seconds) < 1.0


def test_wrong_usage_is_two(capsys):
    assert usage_error() == 2
    assert usage_error("fly") == 2
    assert usage_error("train") == 2
    assert usage_error("train", "--config", STAGE1A) == 2
    assert usage_error("train", "--config", STAGE1A, "--workdir", "w", "--wrokdir", "v") == 2
    assert usage_error("train", "--config", STAGE1A, "--workdir", "w", "--config.seed") == 2
    assert usage_error("demo", "--config.seed=3") == 2
    assert "takes no config keys" in capsys.readouterr().err
    assert usage_error("export-hf", "--workdir", "w", "--out", "o", "--drop-last") == 2
    assert "--drop-last has no effect on --what model" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["0", "-1", "nan", "1.5", "²", "99999999999999999999"])
@pytest.mark.parametrize(
    "command",
    [
        "probe segment --encoder pack:p --data d --classes a,b --seeds",
        "probe classify --encoder pack:p --data d --per-class",
        "probe align --encoder pack:p --data d --text-features t.npy --k",
        "probe align --encoder pack:p --data d --text-model hf:m --k",
        "generate --workdir w --max-new-tokens",
        "eval --workdir w --benchmark mmvp --data d --limit",
        "plan --config c.py --topology h100-1 --rows",
    ],
)
def test_counts_are_whole_numbers_from_one(command, bad, capsys):
    assert usage_error(*command.split(), bad) == 2
    assert f"'{bad}' is not a whole number" in capsys.readouterr().err.splitlines()[-1]


def test_print_config_shows_overrides(capsys, tmp_path):
    argv = ["train", "--config", STAGE1A, "--print-config"]
    assert cli.main([*argv, "--workdir", str(tmp_path / "w")]) == 0
    capsys.readouterr()
    argv += ["--config.seed=7", "--config.optimizer.clip", "0.5", "--config.init.vision=hf:a=b"]
    assert cli.main(argv) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["seed"], shown["optimizer"]["clip"], shown["init"]["vision"]) == (7, 0.5, "hf:a=b")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--config.sed=1", "pivot-jax train: sed: unknown key; did you mean 'seed'?"),
        ("--config.data.batch_size=many", "pivot-jax train: data.batch_size: 'many' (str) is not allowed"),
    ],
)
def test_bad_config_is_one_line_and_code_one(capsys, override, says):
    assert cli.main(["train", "--config", STAGE1A, "--workdir", "w", override]) == 1
    err = capsys.readouterr().err
    assert err.startswith(says) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("row '7': the answer is empty"), 1, "pivot-jax demo: row '7': the answer is empty\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/d/x"),
            1,
            "pivot-jax demo: /d/x: No space left on device; free disk space and run the same command again\n",
        ),
    ],
)
def test_failures_are_one_line(monkeypatch, capsys, error, code, says):
    def fail(*_):
        raise error

    monkeypatch.setattr(studies, "demo", fail)
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == says


def test_an_interrupted_evaluation_says_what_is_kept(monkeypatch, capsys):
    """Another command has started nothing that it could continue (:func:`test_failures_are_one_line`)."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupt)
    assert cli.main(["eval", "--workdir", "w", "--benchmark", "mmvp", "--data", "d"]) == 130
    assert "the answers written so far are kept" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(studies, "demo", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_a_score_is_printed_as_a_table(tmp_path, capsys):
    """Plain text where the output is not a terminal, and one row a number."""
    rows = [
        {"question_id": str(i), "answer": "red", "gt_answer": gold, "category": kind, "finished": i > 0}
        for i, (gold, kind) in enumerate(
            [("red", "[b]colour"), ("blue", "[b]colour"), ("red", "count"), ("red", "count")]
        )
    ]
    evaluation.show_score(score_rows("scenes", rows), tmp_path / "p.jsonl")
    title, toolkit, head, *lines = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert title == f"scenes: 4 questions, answers in {tmp_path}/p.jsonl" and head == "% 95 % interval"
    assert toolkit.startswith("toolkit ours (") and toolkit.endswith("), scorer exact")
    assert [line for line in lines if line] == [
        "accuracy 75.00 [25.00, 100.00]",
        "[b]colour 50.00 [0.00, 100.00]",
        "count 100.00 [34.24, 100.00]",
        "in the requested format 100.00",
        "nothing read by the scorer 0.00",
        "truncated at the token limit 25.00",
    ]
    assert (tmp_path / "p.score.json").is_file()
