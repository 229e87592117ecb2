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
from pivot_jax.config import places
from pivot_jax.errors import UserError
from pivot_jax.hub import HubModel, adapter
from pivot_jax.hub.load import Choose
from pivot_jax.hub.load import load_params as load_hub
from pivot_jax.train import checkpoint

_SOURCE = re.compile(r"(?P<kind>run|pack|hf):(?P<place>[^@:]+)(@(?P<step>\d+))?(:(?P<prefix>.*))?")
_OPTIONAL = "vision/final/"  # an MLLM does without it, so a source may too


@dataclass(frozen=True)
class Source:
    """One entry of ``config.init``: ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR``, each with ``[:PREFIX]``.

    Without a prefix the source's parameters are taken from the same paths as in the target.
    """

    kind: str
    place: Path
    step: int | None
    prefix: str | None

    @classmethod
    def parse(cls, text: str) -> Source:
        found = _SOURCE.fullmatch(text)
        if not found or (found["step"] and found["kind"] != "run"):
            kind = places.kind_of(text)
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
    owner = {path: _longest(init, path) for path in like}
    for prefix in init:
        if prefix not in owner.values():
            raise UserError(f"init: no parameter lies under '{prefix}' (or a longer prefix covers all of them)")
    params: dict[str, Any] = {}
    for prefix, text in init.items():
        wanted = {path: leaf for path, leaf in like.items() if owner[path] == prefix}
        params |= _from_source(prefix, Source.parse(text), wanted, placed)
    random = {path for path in like if owner[path] is None}
    if random:
        made = jax.jit(
            lambda key: {path: leaf for path, leaf in rules.flatten(create(key)).items() if path in random},
            out_shardings={path: placed[path] for path in random},
        )
        params |= made(key)
    return rules.unflatten({path: params[path] for path in like if path in params})


def _longest(init: Mapping[str, str], path: str) -> str | None:
    fitting = [p for p in init if p == "" or path == p or path.startswith(p + "/")]
    return max(fitting, key=len) if fitting else None


def _from_source(prefix: str, source: Source, wanted: dict[str, Any], shardings: dict[str, Any]) -> dict[str, Any]:
    inside = prefix if source.prefix is None else source.prefix
    place = f"{source.kind}:{source.place}"
    origins = {path: (inside + path[len(prefix) :]).strip("/") for path in wanted}
    targets = {origin: path for path, origin in origins.items()}

    def sharding(origin: str, shape: tuple[int, ...]) -> Any:
        if origin not in targets:
            return None
        _check_shape(origin, shape, wanted[targets[origin]].shape, place)
        return shardings[targets[origin]]

    found = source.read(inside, sharding)
    result = {}
    for path, leaf in wanted.items():
        origin = origins[path]
        if origin not in found:
            if path.startswith(_OPTIONAL) and not any(name.startswith(_OPTIONAL) for name in found):
                continue
            there = sorted({"/".join(name.split("/")[:2]) for name in found})
            raise UserError(f"init: {place} has no parameter '{origin}' (it has: {', '.join(there)}){_mend(path)}")
        _check_shape(origin, found[origin].shape, leaf.shape, place)
        result[path] = jax.device_put(_float32(found[origin]), shardings[path])
    return result


def _mend(path: str) -> str:
    if path.startswith("vision/final/pool/"):
        return "; this encoder has no attention-pool head: set model.vision.pool_head=false"
    return ""


def _check_shape(origin: str, there: tuple[int, ...], expected: tuple[int, ...], place: str) -> None:
    if tuple(there) != tuple(expected):
        raise UserError(
            f"init: '{origin}' is {tuple(there)} in {place} but {tuple(expected)} in this config; "
            "it is the checkpoint of another model"
        )


def _float32(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array.astype(np.float32, copy=False)
    return array.astype(jnp.float32)
