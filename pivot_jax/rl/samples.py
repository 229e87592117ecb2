"""Responses of a trained model to prompts: sampled and scored as in online RL, without training.

    DIR/samples/000000.jsonl   a line per response, as in completions/ of a run; a file per ``data.batch_size`` prompts
    DIR/samples/images         thumbnails of images that are not files
    DIR/about.json             what was sampled, and the mean reward

``pivot-jax scheme`` reads the folder, and ``pivot-jax prepare responses`` makes training data of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.data.loading.prompts import PromptLoader, build_prompts
from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.errors import UserError
from pivot_jax.progress import progress
from pivot_jax.rl.collection import asked_prompts, score_responses, texts_of
from pivot_jax.rl.completions import Answered, as_text, completion_lines
from pivot_jax.rl.parts import sampler_shape, sampling_of
from pivot_jax.rl.rewards.composition import Rewards, build_rewards
from pivot_jax.rl.scheme.log_formats import table
from pivot_jax.rollout.sampler import Sampler
from pivot_jax.train.open import OpenModel

SAMPLES, ABOUT = "samples", "about.json"
KEYS = ("data.sources", "data.batch_size", "rl.", "seed")  # of a run's config, that a sample may have otherwise
NUMBER = 1 << 28  # of the rollout in the random numbers: one that training does not reach
_USED = (
    "responses", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop",
    "rewards", "reward_failure", "penalty_truncated", "penalty_min_tokens", "penalty_score",
)  # fmt: skip


def sample(model: OpenModel, out: Path, *, show: bool = True) -> dict[str, Any]:
    """Responses of a model to the prompts of ``data.sources``, scored by ``rl.rewards``, both of ``model.config``.

    Each prompt gets ``rl.responses``, of the own sampler whatever ``rl.engine`` is. Files that an earlier call finished
    are kept.

    Args:
      out: the folder, in which an earlier call may have been stopped.

    Returns:
      The content of about.json.

    Raises:
      UserError: no rewards or prompts, a prompt that cannot be answered, or ``out`` has other samples or other files.
    """
    config = model.config
    if not config.rl.rewards:
        raise UserError("rl.rewards: empty; name at least one, such as ({'name': 'exact', 'column': 'answer'},)")
    with build_rewards(config.rl) as rewards:
        loader = build_prompts(config, model.processor, sources=config.data.sources, batch_size=config.data.batch_size)
        rewards.check(loader.columns())
        about = _claim(out, model, loader)
        _sample(model, loader, rewards, out, show)
    about |= _summary(out)
    files.write_text(out / ABOUT, json.dumps(about, indent=1) + "\n")
    return about


def _claim(out: Path, model: OpenModel, loader: PromptLoader) -> dict[str, Any]:
    """What is sampled into ``out``; the folder is new, or it was begun with the same."""
    section = json.loads(configs.to_json(model.config))["rl"]
    settings = json.dumps([[section[name] for name in _USED], model.config.seed, loader.fingerprint()])
    about = {
        "model": model.identity,
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        "prompts": loader.rows,
        "responses_per_prompt": model.config.rl.responses,
    }
    path = out / ABOUT
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds files that no sample wrote; name a new or an empty folder")
        files.write_text(path, json.dumps(about, indent=1) + "\n")
        return about
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in about.items() if before.get(name) != value]
    except (ValueError, AttributeError):
        raise UserError(f"{path} is not of a sample; name a new folder") from None
    if other:
        raise UserError(f"{out} has samples with other {other[0]}; name a new folder")
    return about


def _sample(model: OpenModel, loader: PromptLoader, rewards: Rewards, out: Path, show: bool) -> None:
    config, section, processor = model.config, model.config.rl, model.processor
    sampling = sampling_of(section, processor)
    reader = ImageReader(processor.read_images, config.data.read_timeout_s)
    sampler = Sampler(model.mllm, processor, sampler_shape(config), reader=reader)
    sampler.update(model.params, model.step)
    first = next(number for number in itertools.count() if not _file(out, number).exists())
    done = min(first * loader.batch_size, loader.rows) * section.responses
    with progress("responses", loader.rows * section.responses, done=done, show=show) as advance:
        for number, prompts in enumerate(loader.ordered(first), first):
            asked = asked_prompts(prompts)
            rollouts = sampler.generate(asked, section.responses, sampling, (config.seed, NUMBER), advance)
            texts = texts_of(processor, rollouts)
            groups, _ = score_responses(rewards, prompts, rollouts, texts)
            answered = [Answered(*pair) for pair in zip(groups, texts, strict=True)]
            lines = completion_lines(answered, out / SAMPLES / "images")
            files.write_text(_file(out, number), as_text(lines))


def _summary(out: Path) -> dict[str, Any]:
    rewards: list[float] = []
    truncated = responses = 0
    for file in sorted((out / SAMPLES).glob("*.jsonl")):
        for _, row in table(file):
            responses += 1
            truncated += row["finish"] == "length"
            if row["reward"] is not None:
                rewards.append(row["reward"])
    mean = sum(rewards) / len(rewards) if rewards else None
    return {"responses": responses, "mean_reward": mean, "truncated": truncated / responses}


def _file(out: Path, number: int) -> Path:
    return out / SAMPLES / f"{number:06d}.jsonl"
