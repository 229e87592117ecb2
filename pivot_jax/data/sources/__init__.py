"""Random-access sources of examples: one reader per format, and the choice of rows.

A source in the config is a dict: ``format`` (a key of :data:`FORMATS`), the reader's own arguments (see its
docstring), and for every format ``responses`` (:class:`responses.Responses`), ``filter`` (:func:`choose.keep`),
``sampling`` (:func:`choose.sample`) and ``image_negatives`` (:class:`image_negatives.ImageNegatives`), which apply in
this order, and their ``seed``. So ``{"filter": "under30", "sampling": "random:20000"}`` draws 20,000 of the short rows.
Formats of prompts for online RL (``maye``, ``easyr1``, ``verl``, ``vlm_r1``, ``scenes_tasks``, ``geometry_tasks``, and
``trl``'s prompt-only rows) end with a question; :mod:`prompts` makes prompts of the others. ``scenes_tasks`` and
``geometry_tasks`` have no end (:class:`base.Endless`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pivot_jax.data.sources import choose
from pivot_jax.data.sources.base import Endless, ImageRoot, Joined, Source
from pivot_jax.data.sources.geometry_tasks import geometry_tasks
from pivot_jax.data.sources.image_negatives import ImageNegatives, corruption
from pivot_jax.data.sources.llava import llava, llava_yaml, next_dpo
from pivot_jax.data.sources.maye import maye
from pivot_jax.data.sources.mmpr import mmpr
from pivot_jax.data.sources.qa import preference_pairs, qa, scienceqa
from pivot_jax.data.sources.responses import Responses
from pivot_jax.data.sources.scenes_tasks import scenes_tasks
from pivot_jax.data.sources.tfds import tfds
from pivot_jax.data.sources.trl import trl
from pivot_jax.data.sources.verl import easyr1, verl
from pivot_jax.data.sources.vlm_r1 import vlm_r1
from pivot_jax.errors import UserError, suggest

FORMATS: dict[str, Callable[..., Source]] = {
    "llava": llava,
    "llava_yaml": llava_yaml,
    "next_dpo": next_dpo,
    "mmpr": mmpr,
    "trl": trl,
    "tfds": tfds,
    "qa": qa,
    "scienceqa": scienceqa,
    "preference_pairs": preference_pairs,
    "maye": maye,
    "easyr1": easyr1,
    "verl": verl,
    "vlm_r1": vlm_r1,
    "scenes_tasks": scenes_tasks,
    "geometry_tasks": geometry_tasks,
}
COMMON = ("format", "responses", "filter", "sampling", "image_negatives", "seed")
KINDS: dict[str, tuple[Any, str]] = {
    "seed": (int, "a whole number"),
    "filter": (str, "text"),
    "sampling": (str, "text"),
    "image_negatives": (str, "text"),
    "responses": ((str, Path), "a file's path"),
    "image_root": ((str, Path), "a folder's path"),
}


def read(source: Mapping[str, Any], *, allow_outside_root: bool = False) -> Source:
    """The source that one entry of ``data.sources`` describes.

    Args:
      allow_outside_root: its rows may name images outside ``image_root`` (``data.allow_outside_root``).

    Raises:
      UserError: as :func:`check`, or as the reader.
    """
    check(source)
    options, name = dict(source), source["format"]
    seed = options.get("seed") or 0
    allowed = inspect.signature(FORMATS[name]).parameters
    arguments = {key: options[key] for key in allowed if key in options}
    if "image_root" in allowed:
        arguments["image_root"] = replace(ImageRoot.of(options.get("image_root")), anywhere=allow_outside_root)
    try:
        out = FORMATS[name](**arguments)
    except TypeError as error:
        raise UserError(f"data.sources: format '{name}': {error}") from None
    if path := options.get("responses"):
        out = Responses(out, path)
    if rule := options.get("filter"):
        out = choose.keep(out, rule, seed)
    out = choose.sample(out, options.get("sampling") or "all", seed, f"data.sources, format '{name}'")
    return ImageNegatives(out, rule, seed) if (rule := options.get("image_negatives")) else out


def check(source: Mapping[str, Any]) -> None:
    """Rejects an entry that no file could fit; reads none.

    Raises:
      UserError: unknown format or key, or a value of another kind.
    """
    options = dict(source)
    name = options.get("format")
    if name not in FORMATS:
        raise UserError(
            f"data.sources: format {name!r} is not known (allowed: {', '.join(FORMATS)}){suggest(str(name), FORMATS)}"
        )
    allowed = tuple(inspect.signature(FORMATS[name]).parameters)
    if unknown := [key for key in options if key not in (*COMMON, *allowed)]:
        keys = (*COMMON, *allowed)
        raise UserError(
            f"data.sources: format '{name}' has no key '{unknown[0]}' (allowed: {', '.join(keys)})"
            f"{suggest(unknown[0], keys)}"
        )
    for key, (kind, words) in KINDS.items():
        if options.get(key) is not None and not isinstance(options[key], kind):
            raise UserError(f"data.sources: format '{name}': {key} is {options[key]!r}, not {words}")
    if rule := options.get("image_negatives"):
        corruption(rule)


def open_source(config: Any, sources: Iterable[Mapping[str, Any]] | Source | None = None) -> Source:
    """The data of a config, or of ``sources`` in their place: entries, or a source as it is. Raises as read_all."""
    if hasattr(sources, "fingerprint"):
        return cast(Source, sources)
    entries = config.data.sources if sources is None else sources
    return read_all(entries, allow_outside_root=config.data.allow_outside_root)


def read_all(sources: Iterable[Mapping[str, Any]], *, allow_outside_root: bool = False) -> Source:
    """All entries of ``data.sources``, one after the other; argument as of :func:`read`.

    Raises:
      UserError: there is none, or one cannot be read.
    """
    parts = [read(source, allow_outside_root=allow_outside_root) for source in sources]
    if not parts:
        raise UserError("data.sources: empty; name at least one, such as ({'format': 'llava', 'path': 'data.json'},)")
    if len(parts) == 1:
        return parts[0]
    if endless := [part.name for part in parts if isinstance(part, Endless)]:
        raise UserError(
            f"data.sources: {endless[0]} has no end, so no other source can follow it; add 'sampling': 'first:N' "
            "to it, or make it the only one"
        )
    return Joined(parts)


__all__ = ["FORMATS", "Endless", "Source", "check", "read", "read_all"]
