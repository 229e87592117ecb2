"""The study of SFT, own responses and online RL with few images and steps: every arm is trained and reported."""

from __future__ import annotations

import re
import shutil

import pytest

from pivot_jax.config import catalogue
from pivot_jax.study import run
from pivot_jax.study.results import Results
from tests.tiny.demo import reduce

REWARD = "def even(prompts, completions, **columns):\n    return [float(len(one) % 2) for one in completions]\n"


@pytest.mark.heavy
def test_rl_mini_in_miniature(tmp_path):
    folder = tmp_path / "configs"
    shutil.copytree(catalogue.folder() / "demo", folder / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    reduce(folder / "demo")
    common = folder / "demo/common.py"  # the few right responses have to fill a batch
    common.write_text(common.read_text().replace('"data.batch_size": 16', '"data.batch_size": 2'))
    (folder / "study").mkdir()
    (folder / "even.py").write_text(REWARD)  # an untrained model gives no right answers to learn from
    text = (catalogue.folder() / "study/rl_mini.py").read_text()
    text = re.sub(r"^(STEPS|UPDATES) = \d+", r"\1 = 2", text, flags=re.MULTILINE)
    text = re.sub(r"^JUDGE = .*", f'JUDGE = ({{"name": "{folder}/even.py:even"}},)', text, flags=re.MULTILINE)
    text = text.replace('"seeds": (0, 1, 2)', '"seeds": (3,)')
    (folder / "study/rl_mini.py").write_text(text)
    root = tmp_path / "work"
    spec = str(folder / "study/rl_mini.py")
    assert run.run(spec, root).is_file()
    found = Results(run.open_study(spec, root))
    trained, frozen = found.conditions
    assert len(found.arms(trained)) == len(found.arms(frozen)) == 7
    for condition in (trained, frozen):
        for arm in found.arms(condition):
            assert found.items(condition, arm, ("arm", "answers", "accuracy")) is not None, arm
            after = found.items(condition, arm, ("stage3", "answers", "accuracy"))
            assert (after is None) == (condition == frozen), arm
    own = found.measured(found.cells(trained, "stage1")[0], "stage1b", "own")
    assert own.numbers["rows"]["right.jsonl"] > 0 and own.numbers["rows"]["pairs.jsonl"] > 0
    encoder = {arm: found.items(frozen, arm, ("arm", "probe", "class, encoder")) for arm in found.arms(frozen)}
    assert all((one == encoder["stage1"]).all() for one in encoder.values())  # all have Stage 1's
