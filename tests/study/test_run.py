"""The demo's study at a smaller size: it resumes after a stop, names what failed, and ends with a report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax.config import catalogue
from pivot_jax.data import scenes
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families.scenes import BENCHMARKS
from pivot_jax.study import data, run
from pivot_jax.study.data import scenes_folder
from pivot_jax.study.measures.gradients import asked_things
from pivot_jax.study.measures.majority import majority_answers
from tests.tiny.demo import SIZES, reduce

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """``study.py`` of a copy of configs/demo with few images, few steps and one seed."""
    folder = tmp_path_factory.mktemp("configs") / "demo"
    shutil.copytree(catalogue.folder() / "demo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    reduce(folder)
    return folder / "study.py"


@pytest.fixture(scope="module")
def prepared(small, tmp_path_factory):
    """The folder of the study's data."""
    graph = run.open_study(str(small), tmp_path_factory.mktemp("study"))
    data.prepare(graph.study.data, graph.data)
    return graph.data


def test_language_prior_answers_the_training_questions(prepared):
    answer = majority_answers(prepared)
    turns = json.loads(scenes.open_split(scenes_folder(prepared), "vqa")[0]["conversations"])
    asked = [t["value"] for t in turns[::2] if "sentence" not in t["value"]]
    assert all(answer(question) for question in asked)
    assert answer("<image>\nHow many unicorns are there?").isdigit()
    assert answer("Why?") == ""


def test_the_benchmark_finds_the_data_in_the_study_s_folder(prepared, tmp_path):
    read = BENCHMARKS["scenes"].read
    questions = read(prepared)
    assert len(questions) == len(read(scenes_folder(prepared))) == SIZES["test"]
    shutil.copytree(scenes_folder(prepared), tmp_path / "scenes" / "demo" / "1.0.0")
    shutil.copytree(scenes_folder(prepared), tmp_path / "scenes" / "other" / "1.0.0")
    with pytest.raises(UserError, match="several prepared data sets .*other"):
        read(tmp_path)
    with pytest.raises(UserError, match="a study's WORKDIR/data$"):
        read(tmp_path / "scenes" / "other")


def test_masks_of_gradient_maps_cover_the_object_in_question(prepared):
    rows = scenes.open_split(scenes_folder(prepared), "preference_test")
    found = asked_things(prepared, 4)
    assert len(found) == 4
    for row, mask, text in found:
        things = scenes.things(rows[row])
        inside = set(np.unique(rows[row]["instances"][..., 0][mask]))
        assert len(inside) == 1
        thing = things[inside.pop() - 1]
        kind, answer = rows[row]["kind"].decode(), rows[row]["answer"].decode()
        assert answer in text
        assert str(thing["value" if kind == "digit" else kind]) == answer


def test_unknown_data(tmp_path):
    with pytest.raises(UserError, match=r"data.kind: 'scene' is unknown \(allowed: scenes"):
        data.prepare({"kind": "scene"}, tmp_path)
    with pytest.raises(UserError, match=r"data: .*unexpected keyword argument 'wrld'"):
        data.prepare({"kind": "scenes", "wrld": {}}, tmp_path)


def test_a_folder_of_other_files_is_left_alone(small, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds files that no study wrote"):
        run.run(str(small), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_job_is_named_and_the_others_are_done(small, prepared, tmp_path):
    folder = tmp_path / "configs"
    shutil.copytree(small.parent, folder)
    (folder / "sft.py").write_text((folder / "sft.py").read_text().replace('"preference"', '"preferences"'))
    root = tmp_path / "study"
    with pytest.raises(UserError, match=r"(?s)^sft-\w+: .*preferences.*see .*logs/sft-\w+\.txt") as error:
        run.run(str(folder / "study.py"), root, run.Choice(until=("sft", "dpo")))
    assert len(str(error.value).splitlines()) == 1
    graph = run.open_study(str(folder / "study.py"), root)
    left = {graph.runs[job.key].stage for job in graph.needed(run.targets(graph, ("sft", "dpo")))}
    assert left == {"sft"}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.heavy
def test_a_stopped_study_resumes_and_writes_its_report(small, tmp_path):
    root = tmp_path / "demo"
    command = [sys.executable, "-m", "pivot_jax.cli", "demo", "--configs", str(small.parent), "--workdir", str(root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    deadline = time.monotonic() + 600
    while not list(root.glob("runs/stage1b-*/metrics.jsonl")) and time.monotonic() < deadline:
        assert first.poll() is None, _logs(root)
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGINT and err.endswith("run the same command again to continue\n"), err
    kept = {path.name: path.stat().st_mtime_ns for path in root.glob("results/stage0*.json")}
    assert len(kept) == 1
    again = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert again.returncode == 0, again.stderr + _logs(root)
    for name, when in kept.items():
        assert (root / "results" / name).stat().st_mtime_ns == when  # not done again
    _check_report(root)
    assert _run(small, root).stdout.startswith(f"study in {root}: 0 jobs of 8 to do")


def _run(study: Path, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pivot_jax.cli", "study", str(study), "--workdir", str(root)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def _logs(root: Path) -> str:
    return "\n".join(path.read_text() for path in root.glob("logs/*.txt"))


def _check_report(root: Path) -> None:
    page = (root / "report.html").read_text()
    for word in ("blank image", "Implicit rewards", "Gradient maps", "Trained parameters", "Which encoder is better?",
                 "Stage 1 only", "+ SFT", "+ DPO", "+ GRPO", "Detectable differences", "Example answers"):  # fmt: skip
        assert word in page, word
    results = json.loads((root / "results.json").read_text())
    rewards = [one for name, one in results.items() if name.startswith("dpo") and ".rewards-" in name]
    assert np.isfinite(rewards[0]["unseen pairs"]["margin"])
    runs = {name: one for name, one in results.items() if "metrics" in one}
    assert len(runs) == 14 and all(np.isfinite(one["metrics"]["loss"]) for one in runs.values())
    assert not [path for path in root.glob("runs/*/skipped.jsonl") if path.read_text()]
