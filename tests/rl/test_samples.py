"""Responses sampled from a finished run: scored as in training, resumed, and trained with in the place of answers."""

from __future__ import annotations

import json

import pytest

from pivot_jax.cli import main as cli
from pivot_jax.data import sources
from pivot_jax.errors import UserError
from pivot_jax.rl import samples, self_made
from pivot_jax.rl.run import run
from pivot_jax.rl.scheme.reading import DEFAULT, read_run
from pivot_jax.study import measures
from pivot_jax.train.open import open_run
from tests.train.conftest import source


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    return tmp_path_factory.mktemp("sampled")


@pytest.fixture
def trained(sampled, rl_config):
    """A run of one step, and responses sampled from it."""
    folder = sampled / "run"
    if not folder.exists():
        run(rl_config(train__steps=1), folder)
    return folder


def test_responses_are_scored_and_read_by_the_scheme(trained, tmp_path):
    model = open_run(trained)
    about = samples.sample(model, tmp_path / "out", show=False)
    files = sorted((tmp_path / "out/samples").glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(files) == -(-about["prompts"] // 4) and about["responses"] == len(rows) == 4 * about["prompts"]
    assert all(row["reward"] == row["completion"].count("e") and row["version"] == 1 for row in rows)
    assert about["mean_reward"] == pytest.approx(sum(row["reward"] for row in rows) / len(rows))
    found = read_run(tmp_path / "out", DEFAULT)
    assert len(found.step) == len(rows) and set(found.step) == {1}


def test_a_stopped_sample_resumes_with_the_same_responses(trained, tmp_path):
    model = open_run(trained)
    about = samples.sample(model, tmp_path / "out", show=False)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out/samples").glob("*.jsonl")}
    last = sorted(whole)[-1]
    (tmp_path / "out/samples" / last).unlink()
    assert samples.sample(model, tmp_path / "out", show=False) == about
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/samples").glob("*.jsonl")} == whole
    model.config.rl.temperature = 0.5
    with pytest.raises(UserError, match="samples with other settings"):
        samples.sample(model, tmp_path / "out", show=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="files that no sample wrote"):
        samples.sample(model, tmp_path / "thesis", show=False)


def test_training_data_of_a_model_s_own_responses(trained, make_config, world, tmp_path, capsys):
    """From the command line, to rows with the images of the prompts' source."""
    out = tmp_path / "out"
    ends = ["--config.rl.max_tokens=24", '--config.rl.stop=("e", "a")']  # right and wrong; a cut one is neither
    assert cli.main(["sample", "--workdir", str(trained), "--out", str(out), *ends]) == 0
    assert "mean reward" in capsys.readouterr().out
    assert cli.main(["sample", "--workdir", str(trained), "--out", str(out), "--config.train.steps=3"]) == 1
    assert "only data.sources, data.batch_size, rl.* and seed can be set" in capsys.readouterr().err
    about = self_made.write(out, tmp_path / "made")
    asked = source(world, "llava")
    original = sources.read(asked)
    known = {original[index].id: original[index] for index in range(len(original))}
    for name, rows in about["rows"].items():
        lines = [json.loads(line) for line in (tmp_path / "made" / name).read_text().splitlines()]
        own = sources.read(asked | {"responses": str(tmp_path / "made" / name)})
        assert len(own) == rows == len(lines) > 0
        for index, line in enumerate(lines):
            assert own[index].images == known[line["row"]].images
            said = own[index].messages[-1].content if name == self_made.RIGHT else own[index].chosen
            assert said == line.get("completion", line.get("chosen"))
    own = asked | {"responses": str(tmp_path / "made" / self_made.RIGHT)}
    assert run(make_config(data__sources=(own,), data__batch_size=2, train__steps=2), tmp_path / "sft").step == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"row": "lost", "completion": "a"}, "row 'lost' is not in"),
        ({"completion": "a"}, "responses.jsonl:1: no line of responses"),
        ({"row": "x", "completion": "a", "chosen": "a", "rejected": "b"}, "responses.jsonl:1: no line of responses"),
        ({"row": "x", "completion": 3}, "responses.jsonl:1: no line of responses"),
    ],
)
def test_a_file_that_is_not_of_this_source(world, tmp_path, line, message):
    (tmp_path / "responses.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=message):
        sources.read(source(world, "llava") | {"responses": str(tmp_path / "responses.jsonl")})


def test_a_study_measures_the_evaluations_of_a_run(rl_config, world, tmp_path):
    """Accuracy after training, and what was lost since the best evaluation."""
    heldout = {**source(world, "llava"), "sampling": "first:6"}
    run(rl_config(rl__heldout__sources=(heldout,), eval__every=2, train__steps=4), tmp_path / "run")
    curve = []
    for step in (2, 4):
        rows = [json.loads(line) for line in (tmp_path / f"run/eval/heldout-{step}.jsonl").read_text().splitlines()]
        curve.append(sum(row["completion"].count("e") > 0 for row in rows) / len(rows))
    found = measures.KINDS["heldout"](measures.Task(tmp_path / "run", "training", {"reward": "count"}))
    assert found.numbers["steps"] == [2, 4] and found.numbers["accuracy"] == pytest.approx(curve, abs=1e-4)
    assert found.items["last"].mean() == pytest.approx(curve[-1])
    assert found.items["fall"].mean() == pytest.approx(max(curve) - curve[-1], abs=1e-6)
    with pytest.raises(UserError, match="no reward 'math' .there are: count"):
        measures.KINDS["heldout"](measures.Task(tmp_path / "run", "training", {"reward": "math"}))
