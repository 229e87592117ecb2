"""Whether the models of weight sources compute the same as the config's model; shapes alone do not tell.

The number of heads, the activation, register tokens or biases can differ although every shape fits. The weights would
then be used in another model than their own, without an error and with worse results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.models.rotary import FIELDS, RopeScaling
from pivot_jax.train.initialization import longest
from pivot_jax.train.source import WeightSource

# Keys of a part that change what its weights compute. Left out: keys that shapes determine, keys of execution (remat),
# and what training may change (the image size; M-RoPE, which equals RoPE on text).
_ENCODER = ("family", "heads", "activation", "registers", "gated")
_COMPUTES = {
    "vision": _ENCODER,
    "second": _ENCODER,
    "decoder": ("heads", "kv_heads", "tied", "qkv_bias", "qk_norm"),
}
_WINDOWS = ("window", "full_blocks")  # of qwen2_5_vl
# Keys that may be changed on purpose, as for a longer context: reported, not rejected.
_CHANGES = {"vision": ("eps", "preset"), "second": ("eps",), "decoder": ("eps", "rope_theta", "rope_scaling")}


def check(init: Mapping[str, str], wanted: Mapping[str, Any]) -> list[str]:
    """Lines to print about parts that differ from their sources where they may.

    Args:
      init: target prefix → source, which passed ``initialization.check``.
      wanted: part (``vision``, ``second``, ``decoder``) → its configuration in this config, None where there is none.

    Raises:
      UserError: a part is another model in its source; names every differing key with the source's value.
    """
    lines: list[str] = []
    for part, ours in wanted.items():
        prefix = longest(init, part)
        if prefix is None or ours is None:
            continue
        source = WeightSource.parse(init[prefix])
        theirs = source.parts().get((source.inside(prefix) + part[len(prefix) :]).strip("/"))
        if theirs is not None:
            lines += _compare(part, ours, theirs, source)
    return lines


def _compare(part: str, ours: Any, theirs: Any, source: WeightSource) -> list[str]:
    windows = _WINDOWS if getattr(theirs, "family", "") == "qwen2_5_vl" else ()
    differing = _differences((*_COMPUTES[part], *windows), ours, theirs)
    if differing:
        found = ", ".join(f"{key} {_plain(pair[0])}" for key, pair in differing.items())
        fix = ", ".join(f"model.{part}.{key}={_plain(pair[1])}" for key, pair in differing.items())
        raise UserError(f"init: the {part} of {source} is another model than this config's ({found}); set {fix}")
    return [
        f"init: {part} of {source} was made with {key} {_plain(there)}; this config sets {_plain(here)}"
        for key, (here, there) in _differences(_CHANGES[part], ours, theirs).items()
    ]


def _differences(keys: tuple[str, ...], ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """Key → (ours, theirs); a ConvNeXt lacks some keys."""
    both = [key for key in keys if hasattr(ours, key) and hasattr(theirs, key)]
    pairs = {key: (getattr(ours, key), getattr(theirs, key)) for key in both}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _plain(value: Any) -> str:
    if isinstance(value, RopeScaling):
        numbers = [f"{key} {number:g}" for key in FIELDS[value.rope_type] if (number := getattr(value, key))]
        return f"{value.rope_type} ({', '.join(numbers)})" if numbers else value.rope_type
    return str(value).lower() if isinstance(value, bool) else str(value)
