"""Starting weights of a run: from other runs, packs or Hugging Face folders by parameter prefix, the rest random."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax import rules
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.hub import HubModel, adapter
from pivot_jax.hub.load import Choose, headers
from pivot_jax.hub.load import load_params as load_hub
from pivot_jax.models import lora
from pivot_jax.train import checkpoint

_SOURCE = re.compile(r"(?P<kind>run|pack|hf):(?P<place>[^@:]+)(@(?P<step>\d+))?(:(?P<prefix>.*))?")
OPTIONAL = ("vision/final/", "second/final/")  # an MLLM does without it, so a source may too


@dataclass(frozen=True)
class Source:
    """One entry of ``config.init``: ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR``, each with ``[:PREFIX]``.

    DIR of ``hf:`` may be the name of a model on the hub, or a file of a projector (see ``hub.load_params``).
    Without a prefix the source's parameters are taken from the same paths as in the target.
    """

    kind: str
    place: Path
    step: int | None
    prefix: str | None

    @classmethod
    def parse(cls, text: str) -> Source:
        kind, _, whole = text.partition(":")
        if kind in ("run", "pack", "hf") and Path(whole).expanduser().exists():
            return cls(kind, Path(whole).expanduser(), None, None)  # its name may hold an @ or a colon
        found = _SOURCE.fullmatch(text)
        if not found or (found["step"] and found["kind"] != "run"):
            kind = paths.kind_of(text)
            mend = f"; did you mean '{kind}:{text}'?" if kind else ""
            raise UserError(f"'{text}' is no source of weights; write run:WORKDIR[@STEP], pack:DIR or hf:DIR{mend}")
        step = int(found["step"]) if found["step"] else None
        return cls(found["kind"], Path(found["place"]).expanduser(), step, found["prefix"])

    def read(self, prefix: str, choose: Choose | None = None) -> dict[str, Any]:
        """Flat ``{path: array}`` of the whole source; of a Hugging Face folder only what lies below ``prefix``.

        ``choose`` lets a folder be read straight to its devices, and only what is wanted (see ``hub.load_params``).
        """
        if self.kind == "hf":
            return rules.flatten(load_hub(self.place, choose, prefix=prefix))
        if self.kind == "pack":
            return rules.flatten(checkpoint.load_pack(self.place)[0])
        return rules.flatten(checkpoint.load_run(self.place, self.step))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path → shape of the whole source; nothing is read but headers."""
        if self.kind == "hf":
            return {path: shape for path, (shape, _) in headers(self.place).items()}
        if self.kind == "pack":
            saved = checkpoint.saved_in_pack(self.place)
        else:
            saved = checkpoint.saved_in_run(self.place, checkpoint.newest(self.place, self.step))
        return {path: tuple(leaf.shape) for path, leaf in saved.items() if not lora.is_adapter(path)}


def load_params(source: str) -> dict[str, Any]:
    """Parameters of one source (see :class:`Source`) as a nested dict of arrays, for evaluation and export.

    With a prefix, the subtree at it.

    Raises:
      UserError: no such source, or nothing at the prefix.
    """
    parsed = Source.parse(source)
    found = parsed.read(parsed.prefix or "")
    try:
        return rules.select(rules.unflatten(found), parsed.prefix or "")
    except KeyError:
        there = sorted({name.split("/")[0] for name in found})
        raise UserError(f"{source}: nothing at '{parsed.prefix}' (it has: {', '.join(there)})") from None


def read_adapter(text: str, cfg: Any, like: Mapping[str, Any], shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Adapters of ``peft:DIR`` (``config.lora.init``) on their devices; they must be those that ``like`` names.

    Args:
      cfg: the MLLM's configuration.

    Raises:
      UserError: another model's adapter, other layers or another rank.
    """
    folder = Path(text.removeprefix("peft:")).expanduser()
    model = HubModel("llava", cfg.vision, cfg.decoder, cfg.projector)
    found, wanted, placed = (rules.flatten(tree) for tree in (adapter.read(folder, model), like, shardings))
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
    return rules.unflatten({path: jax.device_put(found[path], placed[path]) for path in wanted})


def initial_params(init: Mapping[str, str], create: Callable[[Any], Any], key: Any, shardings: Any) -> dict[str, Any]:
    """The parameter tree on its devices.

    Args:
      init: target prefix → source; the longest prefix of a path wins.
      create: key → random parameters (traced; only what no source gives is computed).
      shardings: tree like ``create``'s result.

    Raises:
      UserError: a source lacks a parameter or has it in another shape: the checkpoint of another model.
    """
    like = rules.flatten(jax.eval_shape(create, key))
    placed = rules.flatten(shardings)
    params: dict[str, Any] = {}
    plan = check(init, like)
    for prefix, wanted in plan.items():
        source = Source.parse(init[prefix])
        params |= _from_source(prefix, source, wanted, placed)
    random = {path for path in like if longest(init, path) is None}
    if random:
        made = jax.jit(
            lambda key: {path: leaf for path, leaf in rules.flatten(create(key)).items() if path in random},
            out_shardings={path: placed[path] for path in random},
        )
        params |= made(key)
    return rules.unflatten({path: params[path] for path in like if path in params})


def check(init: Mapping[str, str], like: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Target prefix → {path of ours: path in the source}; from headers alone, nothing is read.

    Args:
      like: flat; path → anything with a shape.

    Raises:
      UserError: a source that is damaged, lacks a parameter or has it in another shape; a prefix that names nothing.
    """
    owner = {path: longest(init, path) for path in like}
    for prefix in init:
        if prefix not in owner.values():
            raise UserError(f"init: no parameter lies under '{prefix}' (or a longer prefix covers all of them)")
    plan: dict[str, dict[str, str]] = {}
    for prefix, text in init.items():
        source = Source.parse(text)
        inside = prefix if source.prefix is None else source.prefix
        origins = {path: (inside + path[len(prefix) :]).strip("/") for path in like if owner[path] == prefix}
        plan[prefix] = _there(origins, like, source.shapes(), f"{source.kind}:{source.place}")
    return plan


def _there(
    origins: Mapping[str, str], like: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], place: str
) -> dict[str, str]:
    """The origins that a source has, which are all but perhaps an encoder's end."""
    found: dict[str, str] = {}
    for path, origin in origins.items():
        if origin in shapes:
            if tuple(shapes[origin]) != tuple(like[path].shape):
                raise UserError(
                    f"init: '{origin}' is {tuple(shapes[origin])} in {place} but {tuple(like[path].shape)} in this "
                    f"config; {_another(origin)}"
                )
            found[path] = origin
        elif not path.startswith(OPTIONAL) or any(name.startswith(OPTIONAL) for name in shapes):
            there = sorted({"/".join(name.split("/")[:2]) for name in shapes})
            room = path.split("/")[0]
            mend = _mend(path) if any(name.startswith(f"{room}/") for name in shapes) else ""
            raise UserError(f"init: {place} has no parameter '{origin}' (it has: {', '.join(there)}){mend}")
    return found


def longest(init: Mapping[str, str], path: str) -> str | None:
    """The prefix whose source gives a parameter."""
    fitting = [p for p in init if p == "" or path == p or path.startswith(p + "/")]
    return max(fitting, key=len) if fitting else None


def _from_source(
    prefix: str, source: Source, origins: Mapping[str, str], shardings: Mapping[str, Any]
) -> dict[str, Any]:
    targets = {origin: path for path, origin in origins.items()}
    inside = prefix if source.prefix is None else source.prefix
    found = source.read(inside, lambda origin, _: shardings[targets[origin]] if origin in targets else None)
    return {path: jax.device_put(_float32(found[origin]), shardings[path]) for path, origin in origins.items()}


def _mend(path: str) -> str:
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
        return "for pictures of another size set model.vision.pos_grid to the side of the checkpoint's grid"
    return "it is the checkpoint of another model"
