"""The demo at a smaller size: it resumes after a stop and ends with a report; a folder holds one study only."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.data import scenes
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.scenes import BENCHMARKS
from pivot_jax.study import demo
from pivot_jax.study.language import majority_answers
from pivot_jax.study.maps import asked_things
from pivot_jax.study.settings import ARMS, STAGES, Settings, Study, config_folder
from pivot_jax.study.tasks import build, marker
from pivot_jax.study.watch import Watch
from tests.tiny.demo import SIZES, reduce


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """configs/demo with few images, few steps and one seed."""
    folder = tmp_path_factory.mktemp("configs") / "demo"
    shutil.copytree(config_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    reduce(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(small, tmp_path_factory):
    study = Study.open(tmp_path_factory.mktemp("study"), small)
    demo.prepare(study)
    return study


def test_every_stage_and_every_reuse_has_a_config(tmp_path):
    study = Study.open(tmp_path)
    for stage in STAGES:
        assert study.config(stage, 1).seed == 1
    for reuse, layers in ((0, (2, 0)), (1, (1, 1)), (2, (2, 2))):
        config = configs.load(f"{study.configs}/stage3.py:{tmp_path}/seed0,sft,{reuse}")
        assert (config.model.projector.layers, config.model.projector.reuse) == layers
        assert sum(rate == "frozen" for _, rate in config.optimizer.rules) == 1 + reuse
    with pytest.raises(UserError, match="reuse of 0, 1 or 2"):
        configs.load(f"{study.configs}/stage3.py:{tmp_path},sft,3")


def test_settings_name_the_wrong_key(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(f"def get_config():\n    return {{'seed': 1}} | {dict(Settings.__annotations__)!r}".split("|")[0])
    with pytest.raises(UserError, match="unknown or missing"):
        Settings.read(str(path))


def test_a_folder_holds_one_study(small, tmp_path):
    Study.open(tmp_path, small).claim()
    Study.open(tmp_path, small).claim()
    with pytest.raises(UserError, match="other settings"):
        Study.open(tmp_path).claim()


def test_language_prior_answers_the_training_questions(prepared):
    answer = majority_answers(prepared)
    turns = json.loads(scenes.open_split(prepared.data, "vqa")[0]["conversations"])
    asked = [t["value"] for t in turns[::2] if "sentence" not in t["value"]]
    assert all(answer(question) for question in asked)
    assert answer("<image>\nHow many unicorns are there?").isdigit()
    assert answer("Why?") == ""


def test_the_benchmark_finds_the_data_in_the_study_s_folder(prepared, tmp_path):
    read = BENCHMARKS["scenes"].read
    questions = read(prepared.root)
    assert len(questions) == len(read(prepared.data)) == SIZES["test"]
    assert questions[0].extra["answer"] == read(prepared.data)[0].extra["answer"]
    shutil.copytree(prepared.data, tmp_path / "scenes" / "demo" / "1.0.0")
    shutil.copytree(prepared.data, tmp_path / "scenes" / "other" / "1.0.0")
    with pytest.raises(UserError, match="several prepared data sets .*other"):
        read(tmp_path)
    with pytest.raises(UserError, match="WORKDIR/scenes/demo/1.0.0, or WORKDIR$"):
        read(tmp_path / "scenes" / "other")


def test_masks_of_gradient_maps_cover_the_object_in_question(prepared):
    rows = scenes.open_split(prepared.data, "preference_test")
    found = asked_things(prepared)
    assert len(found) == prepared.settings.map_pairs
    for row, mask, text in found:
        things = scenes.things(rows[row])
        inside = set(np.unique(rows[row]["instances"][..., 0][mask]))
        assert len(inside) == 1
        thing = things[inside.pop() - 1]
        kind, answer = rows[row]["kind"].decode(), rows[row]["answer"].decode()
        assert answer in text
        assert str(thing["value" if kind == "digit" else kind]) == answer


def test_progress_counts_markers_and_logged_steps(prepared, capsys):
    seed, run = 3, prepared.folder(3) / "stage1a"
    watch = Watch(prepared, 1)
    total = sum(task.cost for task in build(prepared, seed))
    stage0 = marker(prepared, seed, "stage0")
    stage0.parent.mkdir(parents=True)
    stage0.write_text("{}")
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    costs = {task.name: task.cost for task in build(prepared, seed)}
    watch.update(last=True)
    share = (costs["stage0"] + costs["stage1a"] * 2 / 3) / total
    assert f"seed 3: {share:.0%} train stage1a 2/3" in capsys.readouterr().err
    shutil.rmtree(prepared.folder(3))


def test_a_failed_seed_is_explained(prepared, small, tmp_path):
    root = tmp_path / "broken"
    Study.open(root, small).claim()
    shutil.copytree(prepared.root, root, dirs_exist_ok=True)
    (root / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="seed 3 stopped: tokenizer.path"):
        demo.run(root, small)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_resumed_demo_writes_its_report(small, tmp_path):
    command = [sys.executable, "-m", "pivot_jax.cli", "demo", "--configs", str(small), "--workdir", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (tmp_path / "seed3" / "stage1b").exists() and time.monotonic() < deadline:
        assert first.poll() is None, (tmp_path / "seed3" / "log.txt").read_text()
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGINT and err.endswith("run the same command again to continue\n"), err
    assert "step 0" not in err
    kept = marker(Study.open(tmp_path, small), 3, "stage0").read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr + (tmp_path / "seed3" / "log.txt").read_text()
    assert marker(Study.open(tmp_path, small), 3, "stage0").read_text() == kept  # not done again
    _check_report(tmp_path)


def _check_report(root: Path) -> None:
    page = (root / "report.html").read_text()
    for word in ("zero image", "Implicit rewards", "Gradient maps", "Trained parameters", *ARMS.values()):
        assert word in page, word
    results = json.loads((root / "results.json").read_text())
    assert set(results["encoders"]) == set(ARMS)
    assert np.isfinite(results["pairs"]["dpo"][0]["preference_test"]["margin"])
    assert all(np.isfinite(loss).all() for loss in results["losses"].values())
    assert (
        not (root / "seed3" / "sft" / "skipped.jsonl").exists()
        or not (root / "seed3" / "sft" / "skipped.jsonl").read_text()
    )
