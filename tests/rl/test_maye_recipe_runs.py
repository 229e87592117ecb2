"""Every recipe of MAYE's trains: its own config, the real tokenizer and template, real problems and figures.

Fewer and narrower layers, few rows and short responses are all that differs. What a recipe reads lies where it says.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax import rules
from pivot_jax.cli import main as cli
from pivot_jax.config.load import read_file
from pivot_jax.data.sources.maye import CHAT_SUFFIX
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.rl import maye_sets
from pivot_jax.study import data as study_data
from pivot_jax.train.source import load_params
from tests.tiny import demo, maye, maye_files

# What the first test of a kind waits for, above all the model that answers, counts as its own time.
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]
STEPS = 3
RESPONSE = 16  # tokens
ANSWERING = "qwen2.5-vl-3b"  # the model that gets some answers right, see `answering`; it has a tied head
NEED_ANSWERS = (("strong.py", ""), ("sft.py", "rejection"))
LOGGED = {
    "loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "entropy", "perf/tokens_per_s", "perf/images_per_s",
    "perf/step_time_s", "perf/data_wait_s",
}  # fmt: skip
OF_ROLLOUT = {
    "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio",
    "sampling/sampling_logp_difference/mean",
}  # fmt: skip


def runs() -> list[Any]:
    """(recipe, model, word) of every recipe with every word that it takes; the models take turns."""
    found: list[Any] = []
    for recipe in maye.RECIPES:
        for word in maye.words(recipe):
            turn = list(maye.MODELS)[len(found) % len(maye.MODELS)]
            model = (ANSWERING if (recipe, word) in NEED_ANSWERS else turn) if maye.of_qwen(recipe) else ""
            found.append(pytest.param(recipe, model, word, id=",".join(filter(None, (recipe, model, word)))))
    return found


def command(*argv: object) -> None:
    assert cli.main([str(word) for word in argv]) == 0


def train(spec: str, workdir: str, changes: dict[str, Any]) -> None:
    texts = {key: value if isinstance(value, str) else repr(value) for key, value in changes.items()}
    command("train", "--config", spec, "--workdir", workdir, *(f"--config.{key}={text}" for key, text in texts.items()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path := tmp_path_factory.mktemp("maye"))
        yield path


@pytest.fixture(scope="module")
def published(folder, shared_data):
    """Checkpoints of all models, and what `prepare maye` makes of the problems."""
    for name in maye.MODELS.values():
        maye_files.checkpoint(name, folder / "checkpoints" / name.partition("/")[2], shared_data)
    maye_files.publish(folder / "data", shared_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maye_sets, "SIZES", maye_sets.SIZES | maye_files.SIZES)
        command("prepare", "maye", "--source", "data", "--out", "data/maye")


@pytest.fixture(scope="module")
def answering(folder, published):
    """A checkpoint that writes short answers in boxes, some of them right, and its own right responses.

    The commands are those of sft.py; before them SFT on all golden answers, on smaller images.
    """
    name = maye.MODELS[ANSWERING]
    path = f"checkpoints/{name.partition('/')[2]}"
    solutions = {"format": "qa", "image_key": "image", "answer_key": "solution", "suffix": CHAT_SUFFIX}
    files = [f"data/maye/{part}_rl_v0.jsonl" for part in ("mm_math", "geometry3k")]
    short = {
        "data.sources": tuple(solutions | {"path": file} for file in files),
        "data.batch_size": 4,
        "data.max_length": 512,
        "data.buckets": ((512, 32),),
        "data.image.max_patches": 256,
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 1e-2)),
        "optimizer.warmup_ratio": 0.0,
        "train.steps": 30,
    }
    train(f"maye/sft.py:{ANSWERING}", "runs/maye/first", maye_files.reduced(name) | short)
    command("export-hf", "--workdir", "runs/maye/first", "--out", "first")
    shutil.rmtree(path)
    shutil.move("first", path)
    command("import-hf", "--folder", path, "--workdir", "runs/maye/start")
    sampled = {
        "rl.responses": 4,
        "rl.max_tokens": RESPONSE,
        "rl.rewards": ({"name": "math", "column": "solution"},),
        "data.sources": ({"format": "maye", "path": files[0]},),
    }
    settings = [f"--config.{key}={value!r}" for key, value in sampled.items()]
    command("sample", "--workdir", "runs/maye/start", "--out", "runs/maye/samples", *settings)
    command("prepare", "responses", "--log", "runs/maye/samples", "--out", "runs/maye/own")


@pytest.fixture(scope="module")
def scenes(folder):
    """The ablation's data, and the Stage 1b that its RL starts from."""
    declared = read_file("study/maye_ablation.py")["data"] | {"sizes": demo.SIZES}
    study_data.prepare(declared, folder / "runs/maye_ablation/data")
    start = pj.config("maye/tiny_rl.py").init[""].removeprefix("run:")
    train("maye/tiny_stage1b.py", start, small(pj.config("maye/tiny_stage1b.py"), ""))


def small(config: Any, model: str) -> dict[str, Any]:
    """Keys that make a recipe's run short; of its settings, those that count rows or tokens, in proportion."""
    found: dict[str, Any] = {"train.steps": STEPS, "train.log_every": 1, "data.workers": 1, "data.batch_size": 4}
    if model:
        found |= maye_files.reduced(maye.MODELS[model])
    else:  # what it starts from may be no checkpoint, so the first step's is kept
        found |= {"train.checkpoint_every": 1, "train.keep": STEPS}
        found["data.sources"] = few(config.data.sources)
    if config.objective.name != "policy":
        return found | ({"data.max_length": 1024, "data.buckets": ((1024, 64),)} if config.data.buckets else {})
    parts = algorithm_of(config.rl).statistics_parts
    found |= {"rl.minibatches": 2, "rl.max_tokens": RESPONSE, "rl.block": 8, "rl.reward_workers": 1}
    if parts > 1:  # as in MAYE, a micro-batch has as many rows of every part
        found["data.batch_size"] = parts * found["rl.minibatches"] * config.train.accumulate
    lengths = {"max_length": RESPONSE, "buffer": RESPONSE // 4}
    found["rl.rewards"] = tuple({**one, **(lengths if "buffer" in one else {})} for one in config.rl.rewards)
    found["rl.heldout.sources"] = few(config.rl.heldout.sources)
    return found | {"train.accumulate": min(config.train.accumulate, 2)}


def few(sources: Any) -> tuple[dict[str, Any], ...]:
    """The sources with 16 rows where they have a number of them."""
    return tuple({**one, **({"sampling": "first:16"} if "sampling" in one else {})} for one in sources)


@pytest.mark.parametrize(("recipe", "model", "word"), runs())
def test_a_recipe_trains(recipe, model, word, request):
    request.getfixturevalue("published" if model else "scenes")
    if (recipe, word) in NEED_ANSWERS:
        request.getfixturevalue("answering")
    spec = f"maye/{recipe}:{','.join(filter(None, (model, word)))}"
    config, workdir = pj.config(spec), f"runs/{recipe.removesuffix('.py')}-{word}"
    train(spec, workdir, changes := small(config, model))
    check_metrics(config, Path(workdir), changes)
    check_parameters(config, workdir)


def test_the_ablations_mistakes_train_together(scenes):
    """On the tiny model, as configs/study/maye_ablation.py sets them."""
    mistakes = read_file("study/maye_ablation.py")["stages"]["all"]["set"]
    config = pj.config("maye/tiny_rl.py", mistakes)
    train("maye/tiny_rl.py", "runs/mistakes", changes := mistakes | small(config, ""))
    check_metrics(config, Path("runs/mistakes"), changes)
    check_parameters(config, "runs/mistakes")


def check_metrics(config: Any, workdir: Path, changes: dict[str, Any]) -> None:
    """Three steps, finite, by the names that users know."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        assert all(np.isfinite(value) for value in line.values()), line
        assert line.keys() >= LOGGED and line["grad_norm"] > 0
    if config.objective.name != "policy":
        assert all("mean_token_accuracy" in line for line in steps)
        return
    labels = [one["name"] for one in config.rl.rewards]
    rewards = {f"rewards/{label}/{part}" for label in labels for part in ("mean", "std")}
    algorithm = algorithm_of(config.rl)
    for number, line in enumerate(steps):
        assert "policy_loss" in line and any(name.startswith("clip_ratio/") for name in line)
        assert ("kl" in line) == (algorithm.kl_coefficient > 0)
        if number % changes["rl.minibatches"] == 0:
            assert line.keys() >= OF_ROLLOUT | rewards
            assert algorithm.filter == "none" or line["sampling/filtered_ratio"] < 1
    (evaluated,) = [line for line in lines if "eval/heldout/reward" in line]
    assert evaluated["step"] == STEPS
    for rollout in range(-(-STEPS // changes["rl.minibatches"])):
        answered = (workdir / f"completions/{rollout:06d}.jsonl").read_text().splitlines()
        assert len(answered) >= changes["data.batch_size"] * config.rl.responses


def check_parameters(config: Any, workdir: str) -> None:
    """All that the recipe trains moved, and nothing else; of weights in bfloat16 some, beyond their first rounding."""
    sources = (config.init[""] if config.init else f"run:{workdir}@1", f"run:{workdir}")
    before, after = (rules.flatten(jax.tree.map(np.asarray, load_params(source))) for source in sources)
    assert before.keys() == after.keys()
    pattern, rate = config.optimizer.rules[0]
    trained = {path for path in after if rate != "frozen" or not re.fullmatch(pattern, path)}
    master = np.dtype(config.optimizer.master_dtype)
    start = {path: leaf.astype(master) if path in trained else leaf for path, leaf in before.items()}
    moved = {path for path, leaf in start.items() if np.any(leaf.astype(np.float32) != after[path])}
    assert moved and moved <= trained
    assert moved == trained or master != np.float32, trained - moved
