"""The twin of a run for LLaMA-Factory: its YAML, data set and starting weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError
from pivot_jax.objectives.preference_losses import terms_of
from pivot_jax.objectives.table import batch_kind
from pivot_jax.train.setup import Setup
from pivot_jax.twin import rows
from pivot_jax.twin.arguments import QWEN_VL, module_rates, schedule, without_twin

YAML = "train.yaml"
ROLES = {"system": "system", "user": "human", "assistant": "gpt"}
# Preference objectives: our terms → its keys. γ · NLL of the chosen answer is pref_ftx.
LOSSES = ("sigmoid", "hinge", "ipo")
FREEZES = {
    "visual.merger": "freeze_multi_modal_projector",
    "visual": "freeze_vision_tower",
    "language_model": "freeze_language_model",
}


def check(config: Any) -> None:
    """Raises UserError with all that LLaMA-Factory (0.9) does not have, or computes in another way."""
    if reasons := list(_without_twin(config)):
        raise UserError("LLaMA-Factory has no twin of this run: " + "; ".join(reasons))


def _without_twin(config: Any) -> Iterator[str]:
    kind = batch_kind(config)
    yield from without_twin(config)
    if kind not in ("sft", "preference"):
        yield f"objective.name={config.objective.name}: it trains sft and preference pairs of images"
    elif kind == "preference":
        names = [name for name, _ in terms_of(config.objective)]
        if len([name for name in names if name in LOSSES]) != 1 or set(names) - {*LOSSES, "sft"}:
            yield f"objective.terms: one of {', '.join(LOSSES)}, perhaps with sft, has a twin"
        if config.objective.f_divergence_type != "reverse_kl" or config.objective.use_weighting:
            yield "objective.f_divergence_type, objective.use_weighting: the defaults have a twin"
    if config.model.vision.family not in ("qwen2_vl", "qwen2_5_vl"):
        yield (
            f"model.vision.family={config.model.vision.family}: it has no template of {config.tokenizer.chat} turns "
            "with LLaVA's images; Qwen-VL's has a twin, and --to trl takes both"
        )
    if not config.tokenizer.system:
        yield "tokenizer.system is empty: its template adds a system turn"


def arguments(setup: Setup) -> dict[str, Any]:
    """Its YAML.

    Raises:
      UserError: several learning rates.
    """
    config = setup.config
    rates = module_rates(setup.rates, QWEN_VL)
    if len(values := {rate for rate in rates.values() if rate is not None}) > 1:
        raise UserError(
            f"LLaMA-Factory has no twin of this run: optimizer.rules give the learning rates "
            f"{', '.join(f'{value:g}' for value in sorted(values))}; it has one for all that is trained"
        )
    found: dict[str, Any] = {
        "stage": "dpo" if setup.objective.kind == "preference" else "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": "model",
        "dataset_dir": ".",
        "dataset": "rows",
        "template": "qwen2_vl",
        "default_system": config.tokenizer.system,
        "cutoff_len": config.data.max_length,
        "image_min_pixels": config.data.image.min_pixels,
        "image_max_pixels": config.data.image.max_pixels,
        "disable_shuffling": True,  # rows.jsonl has the order of the run
        "output_dir": "run",
        "fp16": False,
        "disable_gradient_checkpointing": config.model.decoder.remat == "none",
        **{freeze: rates[part] is None for part, freeze in FREEZES.items() if part in rates},
        **schedule(setup),
    }
    return found | (_preference(config.objective) if setup.objective.kind == "preference" else {})


def _preference(section: Any) -> dict[str, Any]:
    terms = dict(terms_of(section))
    (loss,) = (name for name in terms if name in LOSSES)
    found = {"pref_loss": loss, "pref_beta": section.beta, "pref_ftx": float(terms.get("sft", 0.0))}
    found |= {"dpo_label_smoothing": section.label_smoothing} if section.label_smoothing else {}
    return found | ({"ld_alpha": section.ld_alpha} if section.ld_alpha != 1 else {})


def write(setup: Setup, folder: Path) -> None:
    """``train.yaml``, ``rows.jsonl`` and ``dataset_info.json``."""
    ranking = setup.objective.kind == "preference"
    columns = {"messages": "conversations", "images": "images"}
    columns |= {"chosen": "chosen", "rejected": "rejected"} if ranking else {}
    info = {"file_name": rows.FILE, "formatting": "sharegpt", "ranking": ranking, "columns": columns}
    images = rows.Images(folder)
    rows.write(folder, setup.loader, lambda example: row(example, ranking, images))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": info}, indent=1))
    heading = f"# LLaMA-Factory's twin of the PIVOT-JAX run {setup.config.name}. Here: llamafactory-cli train {YAML}\n"
    (folder / YAML).write_text(heading + yaml.safe_dump(arguments(setup), sort_keys=False))


def row(example: Example, ranking: bool, images: rows.Images) -> dict[str, Any]:
    """A row in ShareGPT's form, as LLaMA-Factory reads it. No newline follows an image, as in our rows of Qwen-VL."""
    turns = [_turn(one.role, one.content) for one in example.messages]
    shown = rows.row(example, "preference" if ranking else "sft", images)["images"]
    found: dict[str, Any] = {"conversations": turns, "images": shown}
    if ranking:
        return found | {name: _turn("assistant", getattr(example, name) or "") for name in ("chosen", "rejected")}
    return found | {"conversations": turns + ([_turn("assistant", example.chosen)] if example.chosen else [])}


def _turn(role: str, text: str) -> dict[str, str]:
    return {"from": ROLES[role], "value": text.replace(f"{IMAGE}\n", IMAGE)}
