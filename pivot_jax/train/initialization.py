"""Starting weights of a run: from other runs, packs or Hugging Face folders by parameter prefix, the rest random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.hub import HubModel, adapter
from pivot_jax.models.value_head import is_value_head
from pivot_jax.train.source import WeightSource

OPTIONAL = ("vision/final/", "second/final/")  # an MLLM does not use these layers, so a source may lack them


def read_adapter(text: str, cfg: Any, like: Mapping[str, Any], shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Adapters of ``peft:DIR`` (``config.lora.init``) on their devices.

    Args:
      cfg: the MLLM's configuration.
      like: tree of the adapters that the config asks for, of anything with a shape.
      shardings: a tree like it.

    Raises:
      UserError: an adapter of another model, of other layers or of another rank.
    """
    folder = Path(text.removeprefix("peft:")).expanduser()
    model = HubModel("llava", cfg.vision, cfg.decoder, cfg.projector)
    found, wanted, devices = (rules.flatten(tree) for tree in (adapter.read(folder, model), like, shardings))
    for path in sorted({*found, *wanted}):
        if path not in wanted:
            raise UserError(
                f"lora.init: {text} has an adapter at '{path}', which lora.targets do not name; add it there"
            )
        if path not in found:
            raise UserError(f"lora.init: {text} has no adapter at '{path}'; leave it out of lora.targets")
        if found[path].shape != wanted[path].shape:
            shapes = f"{list(found[path].shape)}, lora.rank and lora.targets ask for {list(wanted[path].shape)}"
            raise UserError(f"lora.init: {text}: '{path}' is {shapes}")
    return rules.unflatten({path: jax.device_put(found[path], devices[path]) for path in wanted})


def initial_params(init: Mapping[str, str], create: Callable[[Any], Any], key: Any, shardings: Any) -> dict[str, Any]:
    """The parameter tree on its devices.

    Args:
      init: target prefix → source; the longest prefix of a path wins.
      create: key → random parameters (traced; only those that come from no source are computed).
      shardings: tree like the result of ``create``.

    Raises:
      UserError: a source lacks a parameter or has it in another shape: it is the checkpoint of another model.
    """
    like = rules.flatten(jax.eval_shape(create, key))
    devices = rules.flatten(shardings)
    params: dict[str, Any] = {}
    for prefix, origins in check(init, like).items():
        params |= _from_source(prefix, WeightSource.parse(init[prefix]), origins, devices)
    random = {path for path in like if longest(init, path) is None or (is_value_head(path) and path not in params)}
    if random:
        made = jax.jit(
            lambda key: {path: leaf for path, leaf in rules.flatten(create(key)).items() if path in random},
            out_shardings={path: devices[path] for path in random},
        )
        params |= made(key)
    return rules.unflatten({path: params[path] for path in like if path in params})


def check(init: Mapping[str, str], like: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Target prefix → {path in the model: path in the source}, from headers alone.

    A value head that the source of the whole model lacks is left out: it starts fresh.

    Args:
      like: flat; path → anything with a shape.

    Raises:
      UserError: a source is damaged, lacks a parameter or has it in another shape; a prefix matches no parameter.
    """
    owner = {path: longest(init, path) for path in like}
    for prefix in init:
        if prefix not in owner.values():
            raise UserError(f"init: no parameter is under '{prefix}' (or a longer prefix covers all of them)")
    found: dict[str, dict[str, str]] = {}
    for prefix, text in init.items():
        source = WeightSource.parse(text)
        inside = source.inside(prefix)
        origins = {path: (inside + path[len(prefix) :]).strip("/") for path in like if owner[path] == prefix}
        found[prefix] = _available(origins, like, source, whole=prefix == "")
    return found


def _available(
    origins: Mapping[str, str], like: Mapping[str, Any], source: WeightSource, *, whole: bool
) -> dict[str, str]:
    """The origins that a source has: all of them, except perhaps the last layers of an encoder.

    A source of the ``whole`` model may also lack the value head.
    """
    shapes = source.shapes()
    found: dict[str, str] = {}
    for path, origin in origins.items():
        if origin in shapes:
            if tuple(shapes[origin]) != tuple(like[path].shape):
                raise UserError(
                    f"init: '{origin}' is {tuple(shapes[origin])} in {source} but {tuple(like[path].shape)} in this "
                    f"config; {_another(origin)}"
                )
            found[path] = origin
        elif whole and is_value_head(path):
            continue
        elif not path.startswith(OPTIONAL) or any(name.startswith(OPTIONAL) for name in shapes):
            there = sorted({"/".join(name.split("/")[:2]) for name in shapes})
            part = path.split("/")[0]
            fix = _fix(path) if any(name.startswith(f"{part}/") for name in shapes) else ""
            raise UserError(f"init: {source} has no parameter '{origin}' (it has: {', '.join(there)}){fix}")
    return found


def longest(init: Mapping[str, str], path: str) -> str | None:
    """The longest prefix in ``init`` that covers a parameter: its source has the parameter."""
    fitting = [p for p in init if p == "" or path == p or path.startswith(p + "/")]
    return max(fitting, key=len) if fitting else None


def _from_source(
    prefix: str, source: WeightSource, origins: Mapping[str, str], shardings: Mapping[str, Any]
) -> dict[str, Any]:
    targets = {origin: path for path, origin in origins.items()}
    found = source.read(
        source.inside(prefix), lambda origin, _: shardings[targets[origin]] if origin in targets else None
    )
    return {path: jax.device_put(_float32(found[origin]), shardings[path]) for path, origin in origins.items()}


def _fix(path: str) -> str:
    """The key to set when a source lacks a parameter."""
    if path.startswith("vision/final/pool/"):
        return "; this encoder has no attention-pool head: set model.vision.pool_head=false"
    if path.startswith("vision/final/pooler/"):
        return "; this encoder has no pooler: set model.vision.pool_head=false"
    if path.startswith("decoder/blocks/attn/") and path.endswith("/bias"):
        return "; this language model has no biases on q, k and v: set model.decoder.qkv_bias=false"
    if path.startswith("decoder/blocks/attn/") and path.endswith("_norm/scale"):
        return "; this language model has no norms of queries and keys: set model.decoder.qk_norm=false"
    if path.startswith("decoder/head"):
        return "; this language model's head is its embedding: set model.decoder.tied=true"
    return ""


def _float32(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array.astype(np.float32, copy=False)
    return array.astype(jnp.float32)


def _another(path: str) -> str:
    if path.endswith("/pos_embed"):
        return "for images of another size set model.vision.pos_grid to the side of the checkpoint's grid"
    return "it is the checkpoint of another model"
