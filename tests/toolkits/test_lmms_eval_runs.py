"""lmms-eval, its code unmodified, on a run of ours: in its own process through the plugin, and through ``serve``.

The same questions, answers and scores as ``pivot-jax eval`` and ``pivot-jax score`` have.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from pivot_jax.cli import main as cli
from pivot_jax.data.example import Example, Message
from pivot_jax.eval import score
from pivot_jax.eval.score import Rules
from pivot_jax.train.open import open_run
from tests.tiny import runs
from tests.toolkits import runs as toolkit_runs
from tests.toolkits import world

toolkit_runs.need("lmms_eval", "pip install lmms-eval==0.7.3")

TASK = """\
include: {installed}/tasks/mme/mme.yaml
task: mme_local
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {file}}}
"""
LIKELIHOODS = """\
task: mme_likelihood
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_visual: !function {functions}.images
doc_to_text: !function {functions}.text
doc_to_choice: ["Yes", "No"]
doc_to_target: !function {functions}.target
metric_list:
  - metric: acc
"""
FUNCTIONS = """\
def images(doc):
    return [doc["image"].convert("RGB")]


def text(doc):
    return doc["question"].strip()


def target(doc):
    return ["Yes", "No"].index(doc["answer"])
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    """Read only."""
    return runs.once("toolkits", world.draw)


@pytest.fixture(scope="module")
def tasks(folder, tmp_path_factory) -> Path:
    """Task files over the local parquet file; the first is lmms-eval's own MME."""
    made = tmp_path_factory.mktemp("tasks")
    (file,) = (folder / "mme").rglob("*.parquet")
    installed = Path(find_spec("lmms_eval").origin).parent
    (made / "mme_local.yaml").write_text(TASK.format(installed=installed, file=file))
    (made / "likelihood.py").write_text(FUNCTIONS)
    (made / "mme_likelihood.yaml").write_text(LIKELIHOODS.format(file=file, functions="likelihood"))
    return made


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory) -> Path:
    """Predictions of ``pivot-jax eval``."""
    out = tmp_path_factory.mktemp("ours") / "mme.jsonl"
    argv = ["eval", "--workdir", folder / "run", "--benchmark", "mme", "--data", folder / "mme", "--out", out]
    assert cli.main([str(word) for word in [*argv, "--toolkit", "lmms-eval"]]) == 0
    return out


@pytest.fixture(scope="module")
def in_process(folder, tasks, tmp_path_factory):
    out = tmp_path_factory.mktemp("plugin")
    arguments = f"workdir={folder / 'run'}"
    return toolkit_runs.lmms_eval(tasks, "mme_local", "pivot_jax", arguments, out, "--batch_size", "16")


@pytest.fixture(scope="module")
def through_serve(folder, tasks, tmp_path_factory):
    out = tmp_path_factory.mktemp("served")
    with toolkit_runs.served(folder / "run") as url:
        arguments = f"model_version=run,base_url={url},api_key=none,timeout=600"
        return toolkit_runs.lmms_eval(tasks, "mme_local", "openai", arguments, out)


def predicted(file: Path) -> list[str]:
    return [json.loads(line)["answer"] for line in file.read_text().splitlines()]


def test_the_run_answers_neither_all_right_nor_all_alike(ours):
    found = score.score_file(ours)
    assert 0 < found.scores.mean() < 1 and len(set(predicted(ours))) > 1


@pytest.mark.parametrize("way", ["in_process", "through_serve"])
def test_the_answers_are_those_of_pivot_jax_eval(way, ours, request):
    samples, _ = request.getfixturevalue(way)
    assert toolkit_runs.answers(samples) == predicted(ours)


@pytest.mark.parametrize("way", ["in_process", "through_serve"])
def test_our_score_of_the_samples_is_the_one_that_lmms_eval_prints(way, folder, request):
    samples, printed = request.getfixturevalue(way)
    found = score.score_file(samples, "mme", Rules("lmms-eval"), data=folder / "mme").intervals()
    for name in ("perception", "cognition"):
        assert found[name].value == pytest.approx(printed[f"mme_{name}_score,none"], abs=1e-9)
        assert found[name].value > 0


def test_likelihoods_choose_what_pivot_jax_eval_ranks_first(folder, tasks, tmp_path):
    arguments = f"workdir={folder / 'run'}"
    _, printed = toolkit_runs.lmms_eval(
        tasks, "mme_likelihood", "pivot_jax", arguments, tmp_path, "--batch_size", "16", "--force_simple"
    )
    rows = world.rows()
    examples = [
        Example(str(i), (Message("user", f"<image>\n{row['question'].strip()}"),), (row["image"]["bytes"],))
        for i, row in enumerate(rows)
    ]
    chosen = open_run(folder / "run").answerer().choose(examples, [["Yes", "No"]] * len(rows))
    right = [["Yes", "No"][one] == row["answer"] for one, row in zip(chosen, rows, strict=True)]
    assert printed["acc,none"] == pytest.approx(sum(right) / len(right)) and 0 < sum(right) < len(right)
