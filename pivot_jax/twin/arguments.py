"""A config as the arguments of TRL's trainers, or the reasons why TRL has no such run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pivot_jax.data.processing.dialects import TEMPLATE
from pivot_jax.errors import UserError
from pivot_jax.objectives.preference_losses import SETTINGS, terms_of
from pivot_jax.objectives.table import batch_kind
from pivot_jax.optim.partition import FROZEN
from pivot_jax.train.setup import Setup, rows_of_step
from pivot_jax.twin.policy import policy, without_policy_twin

TRAINERS = {"sft": "SFT", "preference": "DPO", "policy": "GRPO"}  # by kind of batch: the trainer's name before Trainer
# Losses of DPOTrainer (TRL 1.16) that compute what ours of the same name do.
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
SMOOTHED = ("robust", "exo_pair")  # of these, those that read label_smoothing
# Parts of module names, in the order in which a name is looked for, and which of our paths they hold. What an MLLM does
# not compute (vision/final) has no gradient in transformers either.
_LANGUAGE = {"language_model": r"decoder/(?!head)", "lm_head": r"decoder/(head|embed)"}
LLAVA = {
    "vision_tower": r"vision/(?!final/)",
    "multi_modal_projector": r"projector/(?!newline)",
    "image_newline": r"projector/newline",
    **_LANGUAGE,
}
QWEN_VL = {"visual.merger": r"projector/", "visual": r"vision/(?!final/)", **_LANGUAGE}


def check(config: Any) -> str:
    """The trainer of a config: a value of :data:`TRAINERS`.

    Raises:
      UserError: all that TRL does not have, or computes in another way.
    """
    kind = batch_kind(config)
    reasons = [*_without_trainer(config, kind), *without_twin(config)]
    if reasons:
        raise UserError("TRL has no twin of this run: " + "; ".join(reasons))
    return TRAINERS[kind]


def _without_trainer(config: Any, kind: str) -> Iterator[str]:
    if kind not in TRAINERS:
        what = {"contrastive": "stage 0 (contrastive)", "unpaired": "answers with labels (kto) of images"}
        yield f"objective.name={config.objective.name}: it has no trainer for {what.get(kind, kind)}"
    if kind == "preference":
        yield from _without_loss(config.objective)
    if kind == "policy":
        yield from without_policy_twin(config.rl)


def without_twin(config: Any) -> Iterator[str]:
    """What no library of PyTorch computes as we do, or what has no twin yet."""
    if config.data.template == "plain":
        yield "data.template=plain: a caption and its newline are tokenised apart here, together there"
    elif config.tokenizer.chat == TEMPLATE:
        yield (
            f"tokenizer.chat={TEMPLATE}: what is scored of a template's own texts differs in the tokens after an "
            "answer; chatml and llama3 have a twin"
        )
    if config.data.loss_mask == "pivot":
        yield "data.loss_mask=pivot scores headers and newlines; response_only has a twin"
    if config.lora.rank:
        yield "lora.rank: adapters have no twin yet; set lora.rank=0"
    if config.optimizer.master_dtype != "float32":
        yield f"optimizer.master_dtype={config.optimizer.master_dtype}: float32 has a twin"
    if config.train.rounding_noise:
        yield "train.rounding_noise: set it to 0"


def _without_loss(section: Any) -> Iterator[str]:
    names = [name for name, _ in terms_of(section)]
    if missing := [name for name in names if name not in LOSSES]:
        yield f"objective.terms: DPOTrainer has no {' and no '.join(missing)}"
    if "bco_pair" in names and section.bco_shift != "none":
        yield "objective.bco_shift=running_mean: TRL subtracts no mean; objective.bco_shift=none has a twin"
    if section.label_smoothing and not set(names) & set(SMOOTHED):
        yield f"objective.label_smoothing: TRL reads it for {' and '.join(SMOOTHED)} alone"
    if section.use_weighting and "sft" in names:
        yield "objective.use_weighting: TRL weights the sft term too"


def arguments(setup: Setup) -> dict[str, Any]:
    """Arguments of the trainer's config class, where they are not TRL's defaults or these change with versions."""
    config, kind = setup.config, setup.objective.kind
    found = schedule(setup) | {
        "gradient_checkpointing": config.model.decoder.remat != "none",
        "train_sampling_strategy": "sequential",  # rows.jsonl has the order of the run
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
    }
    if kind == "policy":
        return found | policy(config)
    found["max_length"] = config.data.max_length
    if kind == "preference":
        return found | _preference(config.objective)
    return found | {"assistant_only_loss": True}


def schedule(setup: Setup) -> dict[str, Any]:
    """Batch, optimizer, schedule and logging, by the names of transformers' ``TrainingArguments``."""
    config, optimizer, steps = setup.config, setup.config.optimizer, setup.loader.total_steps
    return {
        "max_steps": steps,
        "per_device_train_batch_size": rows_of_step(config) // config.train.accumulate,
        "gradient_accumulation_steps": config.train.accumulate,
        "learning_rate": setup.highest_rate,
        "lr_scheduler_type": {"cosine": "cosine", "constant": "constant_with_warmup"}[optimizer.schedule],
        "warmup_steps": math.ceil(optimizer.warmup_ratio * steps),
        "adam_beta1": optimizer.b1,
        "adam_beta2": optimizer.b2,
        "adam_epsilon": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.clip,
        "bf16": config.model.dtype == "bfloat16",
        "logging_steps": config.train.log_every,
        "save_steps": config.train.checkpoint_every,
        "save_total_limit": config.train.keep,
        "seed": config.seed,
        "report_to": "none",
    }


def _preference(section: Any) -> dict[str, Any]:
    terms = terms_of(section)
    found: dict[str, Any] = {
        "beta": section.beta,
        "loss_type": [name for name, _ in terms],
        "loss_weights": [float(weight) for _, weight in terms],
    }
    names = (
        "label_smoothing",
        "f_divergence_type",
        "f_alpha_divergence_coef",
        "ld_alpha",
        "use_weighting",
        "discopop_tau",
    )
    return found | {name: section[name] for name in names if section[name] != SETTINGS[name]}


def module_rates(rates: Mapping[str, float | str], modules: Mapping[str, str]) -> dict[str, float | None]:
    """Part of a module's name → peak learning rate of the parameters there; None: frozen.

    Args:
      rates: of ``Setup``.
      modules: of the model's class, :data:`LLAVA` or :data:`QWEN_VL`.

    Raises:
      UserError: parameters of one part with several rates.
    """
    found: dict[str, float | None] = {}
    for part, pattern in modules.items():
        paths = [path for path in rates if re.match(pattern, path)]
        values = {rates[path] for path in paths}
        if len(values) > 1:
            ours = pattern.split("/")[0]
            raise UserError(
                f"no twin of this run: optimizer.rules give several learning rates within '{ours}' "
                f"({', '.join(map(str, sorted(values, key=str)))}); set one for each of vision, projector and decoder"
            )
        if values:
            (value,) = values
            found[part] = None if value == FROZEN else float(value)
    return found
