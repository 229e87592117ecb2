"""A run and its twin in TRL, both trained: their curves are the same."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from pivot_jax import config as configs
from pivot_jax.data.processing.chat import Chat
from pivot_jax.errors import UserError
from pivot_jax.twin import compare, write
from tests.train.conftest import QWEN, source

SHARED = Path(os.environ.get("PIVOT_SHARED_DATA", "../shared/data"))
BOUND = 1e-4  # relative, of loss and gradient norm at every step


def trained(config, out):
    found = compare.run_both(config, out, write.write(config, out / "trl"))
    assert (out / compare.PAGE).stat().st_size > 10_000
    return found


def agree(found, bound=BOUND):
    for name in ("loss", "grad_norm", "learning_rate"):
        assert found[name].relative < bound, (name, found[name])


def turns(world, folder):
    """Rows of two questions about one image, the second without it."""
    rows = json.loads((world / "chat.json").read_text())
    for row in rows:
        again = [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": f"Yes. {row['id']}"}]
        row["conversations"] = row["conversations"] + again
    (folder / "turns.json").write_text(json.dumps(rows))
    return {"format": "llava", "path": str(folder / "turns.json"), "image_root": str(world)}


def preference(make_config, world, **changes):
    terms = {"objective__name": "preference", "objective__terms": (("sigmoid", 0.8), ("sft", 0.5))}
    return make_config(data__sources=(source(world, "next_dpo"),), **terms | changes)


def test_preference(make_config, world, tmp_path):
    config = preference(
        make_config, world, optimizer__weight_decay=0.1, optimizer__warmup_ratio=0.3, train__accumulate=2,
        optimizer__rules=(("vision/.*", "frozen"), ("projector/.*", 1e-2), (".*", 1e-3)),
    )  # fmt: skip
    found = trained(config, tmp_path)
    agree(found)
    for name in ("rewards/margins", "logps/chosen", "logps/rejected"):
        assert found[name].absolute < 1e-3, (name, found[name])


@pytest.mark.heavy
def test_sft_on_several_turns(make_config, world, tmp_path):
    config = make_config(data__sources=(turns(world, tmp_path),), optimizer__weight_decay=0.1, train__epochs=2.0)
    found = trained(config, tmp_path / "out")
    agree(found)
    assert found["mean_token_accuracy"].absolute < 1e-6


@pytest.mark.heavy
@pytest.mark.parametrize(("bound", "banned", "steps"), [(1e-4, False, 3), (5e-3, True, 10)])
def test_online_rl_on_the_same_responses(rl_config, monkeypatch, tmp_path, bound, banned, steps):
    """Ours leaves image tokens out of the distribution, and TRL's has them, with a probability of about 1/320 here.

    With them in ours, as it is nowhere else, both gradients are the same. (The fourth rollout then draws an image
    token, for which transformers misses an image.)
    """
    if not banned:
        monkeypatch.setattr(Chat, "banned_ids", ())
    found = trained(rl_config(rl__importance="none", optimizer__rules=((".*", 1e-3),), train__steps=steps), tmp_path)
    assert found["grad_norm"].relative < bound and found["loss"].absolute < 1e-5, found
    assert (found["entropy"].relative > 1e-4) == banned
    assert found["rewards/count/mean"].absolute == found["frac_reward_zero_std"].absolute == 0


@pytest.mark.heavy
@pytest.mark.skipif(find_spec("torchvision") is None, reason="transformers' processor of Qwen-VL needs torchvision")
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_qwen_vl(make_config, qwen_sources, tmp_path, name):
    rows = qwen_sources["pairs" if name == "dpo" else "chats"]
    config = make_config(data__sources=(rows,), objective__name=name, data__batch_size=4, **QWEN)
    agree(trained(config, tmp_path))


@pytest.mark.heavy
@pytest.mark.skipif(not (SHARED / "mathvision").is_dir(), reason=f"real files are not in {SHARED}")
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_real_files(tmp_path, name):
    """configs/trial: 384-pixel images of all sizes, the Qwen2.5 tokenizer. No row is truncated."""
    written = tmp_path / "config.py"
    written.write_text(
        "from pivot_jax.config import include\n\n\ndef get_config():\n"
        f"    found = include({str(Path('configs/trial/x.py').resolve())!r}, '{name}.py')\n"
        "    found.pop('init', None)\n    return found\n"
    )
    steps = {"train.steps": "10", "train.log_every": "1", "data.batch_size": "4", "data.max_length": "2048"}
    config = configs.load(str(written), steps | {"data.buckets": "()"})
    agree(trained(config, tmp_path / "out"))


def test_an_environment_without_trl(make_config, world, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'trl'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="it cannot import TRL .ModuleNotFoundError.*pip install"):
        compare.run_both(preference(make_config, world), tmp_path, tmp_path / "train.py", str(python))
    assert not (tmp_path / compare.OURS).exists()  # it is found before anything is trained


def test_a_failing_script_is_named(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('no memory')\n")
    with pytest.raises(UserError, match=r"train\.py ended with code 1: no memory .see .*log\.txt"):
        compare._train_twin(script, tmp_path, shutil.which("python3"))


def test_the_largest_difference_of_a_curve():
    ours = [{"step": 1, "loss": 2.0, "x": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]
    theirs = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "grad_norm": 3.0}]
    ((name, one),) = compare.differences(ours, theirs).items()
    assert (name, one.step, one.absolute, one.relative) == ("loss", 2, 0.5, 1 / 3)
