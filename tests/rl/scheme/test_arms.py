"""Arms over steps and seeds, and the command with its report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.rl.scheme import arms as scheme

QUESTIONS, EPOCHS, SAMPLES = 12, 4, 3


def write(path, seed, gain, questions=QUESTIONS):
    """Rows of a run that gets better: two splits, three responses to a question, some of them reflecting."""
    rng, rows = np.random.default_rng(seed), []
    easy = np.random.default_rng(7).random(questions)
    for epoch in range(EPOCHS + 1):
        for split in ("val", "test"):
            for question in range(questions):
                for _ in range(SAMPLES):
                    right = rng.random() < 0.2 + 0.5 * easy[question] + gain * epoch
                    said = "so it is 4. Wait, " if rng.random() < 0.4 else ""
                    text = f"{said}I get \\boxed{{{5 if right else int(rng.integers(6, 9))}}}"
                    rows.append({"q": f"{split}{question}", "out": text, "gold": "5", "at": epoch, "split": split})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scheme")
    named = {"sft": 0.0, "grpo": 0.08}
    return [
        f"{arm}={write(folder / f'{arm}{seed}.jsonl', seed, gain)}" for arm, gain in named.items() for seed in range(3)
    ]


COLUMNS = {"question": "q", "text": "out", "gold": "gold", "step": "at", "split": "split"}


@pytest.fixture(scope="module")
def arms(logs):
    settings = pj.scheme.Settings(pj.scheme.LogSettings(columns=COLUMNS), pj.scheme.Scoring("math"))
    return pj.scheme.read_arms(logs, settings)


def test_runs_of_one_name_are_the_seeds_of_an_arm(arms):
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("sft", 3), ("grpo", 3)]
    assert all(len(run) == (EPOCHS + 1) * 2 * QUESTIONS * SAMPLES for arm in arms for run in arm.runs)
    run = arms[0].runs[0]
    assert run.unit == "words" and 0.25 < run.reflects.mean() < 0.55 and run.judging_s > 0


def test_curves_and_summary_are_means_over_the_responses(arms):
    group = ("test", "")
    grpo = arms[1]
    found = pj.scheme.curves(grpo, group, "accuracy")
    assert found.steps.tolist() == [0, 1, 2, 3, 4] and found.values.shape == (3, 5)
    run = grpo.runs[1]
    rows = (run.group == run.groups.index(group)) & (run.step == 2)
    assert found.values[1, 2] == pytest.approx(run.correct[rows].mean())
    one = pj.scheme.summary(grpo, group, ("val", ""))
    assert one.mean.value == pytest.approx(found.values.mean()) and one.mean.seeds == 3 and one.mean.n == QUESTIONS
    assert one.maximum == pytest.approx(found.values.max(axis=1).mean()) and one.maximum >= one.chosen.value
    validation = pj.scheme.curves(grpo, ("val", ""), "accuracy").values.argmax(axis=1)
    assert one.chosen.value == pytest.approx(np.mean([found.values[run, at] for run, at in enumerate(validation)]))
    assert (one.questions, one.runs, one.steps, one.steps_from) == (QUESTIONS, 3, 5, 0.0)
    passes = scheme.pass_curves(grpo, group, SAMPLES).values
    assert (passes >= found.values - 1e-12).all() and scheme.samples(grpo, group) == SAMPLES


def test_arms_are_compared_on_the_same_questions(arms, tmp_path):
    gap = pj.scheme.differences(arms, ("test", ""))["grpo"]
    both = [pj.scheme.curves(arm, ("test", ""), "accuracy").values.mean() for arm in arms]
    assert gap.value == pytest.approx(both[1] - both[0]) and gap.low > 0
    settings = pj.scheme.Settings(pj.scheme.LogSettings(columns=COLUMNS), pj.scheme.Scoring("math"))
    other = [f"other={write(tmp_path / f'{seed}.jsonl', seed, 0.0, questions=9)}" for seed in range(3)]
    assert pj.scheme.differences([arms[0], *pj.scheme.read_arms(other, settings)], ("test", "")) == {}


def test_ratios_over_ranks_are_those_of_parts_of_a_step(arms):
    """MAYE's: consecutive responses are a process's; the mean over processes, then over steps and runs."""
    group, run = ("val", ""), arms[0].runs[0]
    alone = scheme.Arm("one", (run,))
    found = []
    for step in range(EPOCHS + 1):
        rows = np.flatnonzero((run.group == run.groups.index(group)) & (run.step == step))
        for part in np.array_split(rows, 4):
            reflects = run.substrings[part].any(axis=1)
            found.append(run.correct[part][reflects].mean() if reflects.any() else 0.0)
    ratios = scheme.ratios_over_ranks(alone, group, 4)
    assert ratios.correct_ratio_in_reflection_texts == pytest.approx(np.mean(found))


def test_arms_with_other_steps_are_not_compared(arms):
    run = arms[1].runs[0]
    later = scheme.Arm("later", tuple(replace(one, step=one.step + 1) for one in arms[1].runs))
    assert run.step.min() == 0 and pj.scheme.differences([arms[0], later], ("test", "")) == {}


def test_lengths_are_in_tokens_where_every_log_has_them(tmp_path):
    for name, tokens in (("a", 7), ("b", 0)):
        row = {"q": "x", "out": "three words here", "ok": 1, "n": tokens}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    columns = {"question": "q", "text": "out", "correct": "ok", "tokens": "n"}
    settings = pj.scheme.Settings(pj.scheme.LogSettings(columns=columns))
    (alone,) = pj.scheme.read_arms([tmp_path / "a.jsonl"], settings)
    assert (alone.name, alone.runs[0].unit, alone.runs[0].length.tolist()) == ("a.jsonl", "tokens", [7])
    (both,) = pj.scheme.read_arms([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], settings)
    assert [(run.unit, run.length.tolist()) for run in both.runs] == [("words", [3])] * 2


def test_training_prompts_leave_only_the_seeds_random(tmp_path):
    """Other questions at every step: intervals over seeds; of one run a number alone."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rows = [
            {"input": f"q{step}-{i}", "output": "x", "score": float(rng.random() < 0.5), "step": step}
            for step in (1, 2)
            for i in range(20)
        ]
        (tmp_path / f"{seed}").mkdir()
        for step in (1, 2):
            lines = (json.dumps(row) + "\n" for row in rows if row["step"] == step)
            (tmp_path / f"{seed}" / f"{step}.jsonl").write_text("".join(lines))
    (two,) = pj.scheme.read_arms([tmp_path / "0", tmp_path / "1"])
    assert scheme.scores(two, ("", "")) is None
    assert pj.scheme.summary(two, ("", "")).mean.seeds == 2
    (one,) = pj.scheme.read_arms([tmp_path / "0"])
    assert isinstance(pj.scheme.summary(one, ("", "")).mean, float)
    epochs = pj.scheme.read_arms([tmp_path / "0"], pj.scheme.Settings(epoch=2))
    assert set(epochs[0].runs[0].step) == {1.0}


def test_the_command_writes_a_report(logs, tmp_path, capsys):
    columns = [f"{field}={column}" for field, column in COLUMNS.items()]
    out = tmp_path / "report"
    command = ["scheme", *logs, "--columns", *columns, "--judge", "math", "--ranks", "7", "--out", str(out)]
    assert cli.main(command) == 0 and cli.main(command) == 0  # what it wrote before, it replaces
    said = capsys.readouterr().out
    assert "test: 12 questions, so one question is 8.3 points." in said and "Single run" not in said
    assert "Max over steps (%)" in said and "wrong to right" in said and "grpo − sft" in said
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "grpo, substrings, mean over 7 ranks" in text
    assert "Majority vote" in page and "Same question, equal length" in text and page.count("<svg") >= 2
    (out / "mine.txt").write_text("kept")
    assert cli.main(command) == 1 and (out / "mine.txt").read_text() == "kept"
    assert "holds files that this command did not write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{log}"], "the format of this log is not recognised"),
        (["{log}", "--columns", "question=q", "text=out"], "does not say whether its response is correct; judge it"),
        (
            ["{log}", "--columns", "question=q,text=out", "--judge", "math"],
            "no right answer that --judge math can read",
        ),
        (["{log}", "--columns", "question"], "--columns question: write FIELD=COLUMN"),
        (["{log}", "--judge", "maths"], "judge 'maths' is unknown"),
        (["a={log}", "b={log}"], "is named twice; a run counts once"),
        (["gone.jsonl"], "gone.jsonl does not exist"),
    ],
)
def test_a_wrong_command_says_what_to_do(logs, capsys, arguments, message):
    log = logs[0].partition("=")[2]
    assert cli.main(["scheme", *(one.format(log=log) for one in arguments)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]


def test_runs_without_anything_in_common(tmp_path):
    rows = {"a": ("1", "val"), "b": ("1", "test")}
    for name, (step, split) in rows.items():
        row = {"q": "x", "out": "y", "ok": 1, "at": step, "split": split}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    columns = {"question": "q", "text": "out", "correct": "ok", "step": "at", "split": "split"}
    settings = pj.scheme.Settings(pj.scheme.LogSettings(columns=columns))
    from pivot_jax.report import scheme as report

    with pytest.raises(UserError, match="its runs have no split and setting in common"):
        report.build(pj.scheme.read_arms([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], settings))
