"""LoRA adapters in PEFT's layout: ``adapter_config.json`` and ``adapter_model.safetensors``, in and out.

PEFT names a tensor after the module in memory, ``base_model.model.MODULE.lora_A.weight`` [r, in] and ``lora_B``
[out, r]; ours are transposed and stacked over layers beside their kernel (see ``models.lora``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from pivot_jax import files, rules
from pivot_jax.errors import UserError
from pivot_jax.hub import configs, names
from pivot_jax.hub import folder as folders
from pivot_jax.hub.families import HubModel, layout_of, qwen_vl, summary
from pivot_jax.hub.fields import read_json
from pivot_jax.hub.load import nearest
from pivot_jax.hub.names import Entry
from pivot_jax.hub.shards import Shards
from pivot_jax.models import lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)\.weight")
# Features of PEFT's LoRA that ours has not, and the values that switch them off.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
}
# Module names in transformers 5's memory from the keys of hub files, by model_type; the first match is replaced.
_IN_MEMORY: dict[str, tuple[tuple[str, str], ...]] = {
    "llava": (
        (r"language_model\.lm_head", "lm_head"),
        (r"language_model\.model\.", "model.language_model."),
        (r"vision_tower\.vision_model\.", "model.vision_tower."),
        (r"vision_tower\.", "model.vision_tower."),
        (r"multi_modal_projector\.", "model.multi_modal_projector."),
    ),
    **dict.fromkeys(qwen_vl.CLASSES, ((r"visual\.", "model.visual."), (r"model\.", "model.language_model."))),
    "qwen2": (),
    "qwen3": (),
    "llama": (),
}


class _Pair(NamedTuple):
    """One module's adapter, as ours: a [in, r], b [r, out]."""

    a: np.ndarray
    b: np.ndarray
    scale: float


def read(folder: str | Path, model: HubModel) -> dict[str, Any]:
    """Adapters of a PEFT folder as float32 leaves beside the kernels of ``model``.

    A layer of a stack that has none gets one of scale 0, and lower ranks are padded with zeros: the same function.

    Raises:
      UserError: no or damaged files, something other than plain LoRA, modules or shapes that the model does not have.
    """
    folder = Path(folder)
    settings = _settings(folder)
    known = {
        key: (entry, layer) for entry in _entries(model) for layer, key in enumerate(entry.keys) if _is_plain(entry)
    }
    found: dict[str, dict[int, _Pair]] = {}
    entries: dict[str, Entry] = {}
    layout = layout_of(model)
    with Shards(folder, [WEIGHTS]) as shards:
        for module, keys in _modules(shards).items():
            key = layout.canonical(f"{module}.weight")
            if key not in known:
                near = nearest(key, list(known))
                words = f"; nearest: '{near}'" if near else ""
                raise UserError(f"{folder / WEIGHTS}: '{module}' is not a linear layer of this model{words}")
            entry, layer = known[key]
            found.setdefault(entry.path, {})[layer] = _pair(shards, module, keys, entry, settings)
            entries[entry.path] = entry
    if not found:
        raise UserError(f"{folder / WEIGHTS} holds no adapter")
    flat: dict[str, Any] = {}
    for path, pairs in found.items():
        for leaf, array in zip(lora.LEAVES, _stack(entries[path], pairs), strict=True):
            flat[lora.beside(path, leaf)] = array
    return rules.unflatten(flat)


def write(
    params: Mapping[str, Any], model: HubModel, out: str | Path, *, base: str = "", overwrite: bool = False
) -> Path:
    """The adapters in ``params`` as a folder that ``peft.PeftModel.from_pretrained`` loads onto the base model.

    ``lora_alpha`` is chosen for our scale with PEFT's plain ``alpha / r``, also where we trained with rslora.

    Args:
      base: Hugging Face folder or name of the base model, for ``base_model_name_or_path``.

    Raises:
      UserError: no adapters, or some on a layer that is not a module of its own in transformers.
    """
    pairs = dict(_pairs(params, model))
    if not pairs:
        raise UserError("these parameters hold no LoRA adapter; was the run trained with lora.rank above 0?")
    ranks = {module: pair.a.shape[1] for module, pair in pairs.items()}
    alphas = {module: _number(pair.scale * ranks[module]) for module, pair in pairs.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": rank,
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "lora_alpha": alpha,
        "alpha_pattern": {module: x for module, x in alphas.items() if x != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "target_modules": sorted(pairs),
    }
    tensors = {}
    for module, pair in pairs.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(pair.a.T)
        tensors[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(pair.b.T)
    with files.whole_folder(Path(out), overwrite=overwrite) as into:
        save_file(tensors, into / WEIGHTS, metadata={"format": "pt"})
        folders.write_json(into / CONFIG, settings)
        on = f"`{base}`" if base else "the model that training started from"
        lines = [f"A LoRA adapter from PIVOT-JAX on {on}. It loads with `peft.PeftModel.from_pretrained`.", ""]
        folders.write_card(into, "LoRA adapter", "text-generation", lines, library="peft")
    return Path(out)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    raw = read_json(path)
    for key, allowed in _ONLY.items():
        if raw.get(key) not in allowed:
            raise UserError(f"{path}: '{key}' is {raw.get(key)!r}; supported: {allowed[0]!r} (merge it in PEFT)")
    for key in ("r", "lora_alpha"):
        if not isinstance(raw.get(key), (int, float)) or raw[key] <= 0:
            raise UserError(f"{path}: '{key}' is {raw.get(key)!r}; expected a number above 0")
    return raw


def _entries(model: HubModel) -> list[Entry]:
    return [e for e in names.entries(layout_of(model), configs.sizes(model))[0] if lora.is_linear(e.path, e.shape)]


def _is_plain(entry: Entry) -> bool:
    """Whether the kernel is one whole nn.Linear: [out, in] of theirs, not a part of a fused one, no convolution."""
    return entry.groups == ((1,), (0,)) and entry.rule.part == (0, 1)


def _modules(shards: Shards) -> dict[str, dict[str, str]]:
    """Module → {"A": key, "B": key}."""
    found: dict[str, dict[str, str]] = {}
    for key in shards.keys:
        match = _KEY.fullmatch(key)
        if not match:
            raise UserError(
                f"{shards.where(key)}: '{key}' is not a weight of a LoRA on a linear layer; merge it in PEFT"
            )
        shards.check_float(key)
        found.setdefault(match[1], {})[match[2]] = key
    for module, keys in found.items():
        if len(keys) != 2:
            raise UserError(f"{shards.folder / WEIGHTS}: '{module}' has lora_{next(iter(keys))} alone")
    return found


def _pair(shards: Shards, module: str, keys: dict[str, str], entry: Entry, settings: Mapping[str, Any]) -> _Pair:
    into, out = entry.our_shape
    a, b = (shards.whole(keys[half]) for half in "AB")
    rank = a.shape[0]
    if a.shape != (rank, into) or b.shape != (out, rank):
        shapes = f"A {list(a.shape)} and B {list(b.shape)}, expected [r, {into}] and [{out}, r]"
        raise UserError(f"{shards.where(keys['A'])}: '{module}' has {shapes}")
    patterns = settings.get("alpha_pattern") or {}
    own = (x for pattern, x in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern.removeprefix('^')})", module))
    alpha = next(own, settings["lora_alpha"])
    return _Pair(
        a.T.astype(np.float32), b.T.astype(np.float32), lora.scale(alpha, rank, bool(settings.get("use_rslora")))
    )


def _stack(entry: Entry, pairs: Mapping[int, _Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layers, (into, out) = len(entry.keys), entry.our_shape
    rank = max(pair.a.shape[1] for pair in pairs.values())
    a, b = np.zeros((layers, into, rank), np.float32), np.zeros((layers, rank, out), np.float32)
    scale = np.zeros(layers, np.float32)
    for layer, pair in pairs.items():
        own = pair.a.shape[1]
        a[layer, :, :own], b[layer, :own], scale[layer] = pair.a, pair.b, pair.scale
    return (a, b, scale) if entry.rule.stacked else (a[0], b[0], scale[0])


def _pairs(params: Mapping[str, Any], model: HubModel) -> Iterator[tuple[str, _Pair]]:
    """(Module in memory, its adapter), layer by layer."""
    if model.model_type not in _IN_MEMORY:
        known = ", ".join(_IN_MEMORY)
        raise UserError(f"an adapter on a '{model.model_type}' model cannot be written (supported: {known}); merge it")
    flat = rules.flatten(params)
    entries = {entry.path: entry for entry in _entries(model)}
    for path in flat:
        if not path.endswith(f"/{lora.A}"):
            continue
        kernel = lora.kernel_of(path)
        entry = entries.get(kernel)
        if entry is None or not _is_plain(entry):
            raise UserError(
                f"the adapter at '{kernel}' is on no linear layer of transformers' ({summary(model)}); "
                "export the merged model instead"
            )
        a, b, scale = (np.asarray(flat[lora.beside(kernel, leaf)], np.float32) for leaf in lora.LEAVES)
        if not entry.rule.stacked:
            a, b, scale = a[None], b[None], scale[None]
        for layer, key in enumerate(entry.keys):
            yield _module(model.model_type, key), _Pair(a[layer], b[layer], float(scale[layer]))


def _module(model_type: str, key: str) -> str:
    name = key.removesuffix(".weight")
    for pattern, replacement in _IN_MEMORY[model_type]:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _number(value: float) -> int | float:
    """An alpha without float32 rounding; whole numbers as int."""
    rounded = round(value, 5)
    return int(rounded) if math.isclose(rounded, round(rounded)) else rounded
