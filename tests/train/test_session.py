"""Evaluation hooks of a run: when they are called, what is logged, and how they and their errors go with resuming."""

from __future__ import annotations

import json

import jax.numpy as jnp
import pytest

from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint
from pivot_jax.train.evaluation import evaluate
from pivot_jax.train.metrics import read
from pivot_jax.train.open import open_run
from pivot_jax.train.run import run
from pivot_jax.train.session import Hook
from pivot_jax.train.signals import Interrupted
from tests.train.conftest import stop_at
from tests.train.test_resume import same_bits, trace

NORM = "eval/projector/norm"


def norm(params) -> float:
    return float(jnp.linalg.norm(params["projector"]["fc1"]["kernel"]))


PROJECTOR = Hook("projector", lambda step, params: {"norm": norm(params)})


def evaluated(workdir) -> dict[int, float]:
    """Step → logged norm."""
    return {row["step"]: row[NORM] for row in read(workdir / "metrics.jsonl") if NORM in row}


@pytest.fixture(scope="module")
def whole(make_config, tmp_path_factory):
    """A run of five steps that evaluates every second one."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(make_config(train__steps=5, eval__every=2), folder, [PROJECTOR])
    assert result.metrics[NORM] == evaluated(folder)[5]
    return folder


@pytest.mark.heavy
def test_evaluations_are_of_the_parameters_after_their_step(whole):
    found = evaluated(whole)
    assert list(found) == [2, 4, 5] and len(set(found.values())) == 3
    for step in (4, 5):
        assert found[step] == pytest.approx(norm(checkpoint.load_run(whole, step)), rel=1e-6)


def test_evaluations_do_not_change_the_training(whole, make_config, tmp_path):
    run(make_config(train__steps=5), tmp_path)
    without = [{key: value for key, value in row.items() if key != NORM} for row in trace(whole)]
    assert trace(tmp_path) == without
    same_bits(tmp_path, whole)


@pytest.mark.parametrize("bad", [2, 5])
@pytest.mark.heavy_after(1)
def test_a_failing_evaluation_ends_the_run_and_is_repeated_after_resuming(whole, make_config, tmp_path, bad):
    """Also after the last step: the run counts as finished only once the evaluation is done."""

    def fail(step, params):
        if step == bad:
            raise UserError("the answers could not be read")
        return {"norm": norm(params)}

    config = make_config(train__steps=5, eval__every=2)
    with pytest.raises(UserError, match="the answers could not be read"):
        run(config, tmp_path, [Hook("projector", fail)])
    assert checkpoint.newest(tmp_path) == bad and bad not in evaluated(tmp_path)
    result = run(config, tmp_path, [PROJECTOR])
    assert (result.step, result.metrics[NORM]) == (5, evaluated(whole)[5])
    assert trace(tmp_path) == trace(whole)
    same_bits(tmp_path, whole)
    again = run(config, tmp_path, [PROJECTOR])
    assert again.seconds == 0


@pytest.mark.heavy
def test_a_signal_postpones_an_evaluation(make_config, tmp_path):
    """Step 3 stops and would evaluate too; the resumed run does that first."""
    config = make_config(train__steps=5, eval__every=1)
    run(config, tmp_path / "whole", [PROJECTOR])
    with pytest.raises(Interrupted, match="stopped at step 3"):
        run(config, tmp_path / "stopped", [PROJECTOR, stop_at(2)])
    assert list(evaluated(tmp_path / "stopped")) == [1, 2]
    run(config, tmp_path / "stopped", [PROJECTOR])
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")


@pytest.mark.heavy
def test_the_best_checkpoint_by_an_evaluation_is_kept(make_config, tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.4, 4: 0.3}
    changes = dict(train__steps=4, train__checkpoint_every=1, train__keep=1, eval__every=1)
    config = make_config(**changes, train__best_metric="eval/toy/score")
    result = run(config, tmp_path, [Hook("toy", lambda step, params: {"score": scores[step]})])
    assert checkpoint.complete(tmp_path) == [2, 4]
    assert result.metrics["eval/toy/score"] == 0.3 and run(config, tmp_path).metrics == result.metrics


def test_evaluations_that_could_not_run_are_rejected(make_config, tmp_path):
    with pytest.raises(UserError, match=r"eval.every: 0, .* \(projector\) never run"):
        run(make_config(), tmp_path / "never", [PROJECTOR])
    with pytest.raises(UserError, match="eval.every: -1 is not allowed; it must be at least 0"):
        make_config(eval__every=-1)
    with pytest.raises(UserError, match="set eval.every to a divisor of train.checkpoint_every=4"):
        make_config(train__best_metric="-eval/toy/score", eval__every=3)
    config = make_config(train__best_metric="eval/toy/score", eval__every=2)
    with pytest.raises(UserError, match="there is nothing to evaluate"):
        run(config, tmp_path / "none")
    with pytest.raises(UserError, match="'eval/toy/score' is not logged; there are: eval/projector/norm"):
        run(config, tmp_path / "other", [PROJECTOR])


def test_a_run_evaluates_the_benchmarks_of_its_config(make_config, world, tmp_path):
    """The logged accuracy is that of `evaluate` on the saved step; a wrong benchmark is found before training."""
    questions = [
        {"id": str(i), "question": f"What colour is image {i}?", "choices": ["red", "green"], "answer": i % 2,
         "image": str(world / f"{i}.png")}
        for i in range(6)
    ]  # fmt: skip
    (world / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    benchmark = {"name": "scienceqa", "path": str(world / "questions.jsonl"), "limit": 4}
    changes = {"train__steps": 4, "eval__every": 2, "eval__benchmarks": (benchmark,)}
    run(make_config(**changes), tmp_path / "run")
    rows = {row["step"]: row for row in read(tmp_path / "run" / "metrics.jsonl")}
    assert [step for step, row in rows.items() if "eval/scienceqa/accuracy" in row] == [2, 4]
    again = evaluate(open_run(tmp_path / "run"), "scienceqa", benchmark["path"], tmp_path / "a.jsonl", limit=4)
    assert rows[4]["eval/scienceqa/accuracy"] == again.value.value and len(again.ids) == 4
    logged = (tmp_path / "run" / "eval" / "scienceqa-4.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [json.loads(line)["answer"] for line in logged] == answers
    for wrong, message in (
        ({"eval__benchmarks": ({"name": "mmvpp", "path": "x"},)}, "benchmark 'mmvpp' is unknown"),
        ({"eval__benchmarks": ({"name": "mmvp"},)}, "eval.benchmarks.0: .* is not a dict with 'name' and 'path'"),
        ({"eval__benchmarks": ({"name": "mmvp", "path": "no/such"},)}, "MMVP: no folder at 'no/such'"),
        ({"eval__benchmarks": (benchmark, benchmark | {"limit": 2})}, "'scienceqa' is there twice"),
        ({"eval__every": 0}, "never evaluated, because eval.every is 0"),
        ({"eval__benchmarks": ()}, "nothing to evaluate"),
    ):
        with pytest.raises(UserError, match=message):
            run(make_config(**changes | wrong), tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "metrics.jsonl").exists()
