"""Whether sources of starting weights compute what a config's model does; shapes alone do not say.

The number of heads, the activation, register tokens or biases can differ where every shape that is wanted fits. The
weights would then serve another model than theirs, with no error and worse results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.hub import configs as hub_configs
from pivot_jax.models import zoo
from pivot_jax.models.rotary import FIELDS, RopeScaling
from pivot_jax.train import checkpoint
from pivot_jax.train.extract import read_config
from pivot_jax.train.source import Source, longest

# Keys of a part that change what its weights compute. Left out: what shapes tell, what is how and not what (remat), and
# what training may choose anew (the size of pictures, M-RoPE, which text does not tell from RoPE).
_ENCODER = ("family", "heads", "activation", "registers", "gated")
_COMPUTES = {
    "vision": _ENCODER,
    "second": _ENCODER,
    "decoder": ("heads", "kv_heads", "tied", "qkv_bias", "qk_norm"),
}
_WINDOWS = ("window", "full_blocks")  # of qwen2_5_vl
# What may be changed on purpose, as for a longer context: said, not refused.
_CHANGES = {"vision": ("eps", "preset"), "second": ("eps",), "decoder": ("eps", "rope_theta", "rope_scaling")}


def check(init: Mapping[str, str], wanted: Mapping[str, Any]) -> list[str]:
    """Lines to print about parts whose sources differ where they may.

    Args:
      init: target prefix → source, as in ``initialise.check``, which comes first.
      wanted: room (``vision``, ``second``, ``decoder``) → its configuration in this config, None where there is none.

    Raises:
      UserError: a part that is another model in its source; it names every key with the source's value.
    """
    lines: list[str] = []
    for room, ours in wanted.items():
        prefix = longest(init, room)
        if prefix is None or ours is None:
            continue
        source = Source.parse(init[prefix])
        inside = prefix if source.prefix is None else source.prefix
        theirs = _parts(source).get((inside + room[len(prefix) :]).strip("/"))
        if theirs is not None:
            lines += _compare(room, ours, theirs, f"{source.kind}:{source.place}")
    return lines


def config_of(source: Source) -> Any:
    """The config of a run; of a pack, the defaults with what the pack says of model and pictures."""
    if source.kind == "run":
        return read_config(source.place)
    about = checkpoint.describe_pack(source.place)
    config = configs.base()
    content = {"model": about["model"], "data": {"image": about.get("image", {})}}  # a language model sees none
    configs.merge(config, content, where=f"{source.place}/pack.json")
    return config


def _parts(source: Source) -> dict[str, Any]:
    """Room → configuration of what a source holds."""
    if source.kind == "hf":
        found = hub_configs.read(source.place)
        return {"vision": found.vision, "decoder": found.decoder}
    config = config_of(source)
    model = zoo.build(config.model, config.data.image)
    return {"vision": model.vision, "second": model.second, "decoder": model.decoder}


def _compare(room: str, ours: Any, theirs: Any, place: str) -> list[str]:
    windows = _WINDOWS if getattr(theirs, "family", "") == "qwen2_5_vl" else ()
    differing = _differences((*_COMPUTES[room], *windows), ours, theirs)
    if differing:
        said = ", ".join(f"{key} {_plain(pair[0])}" for key, pair in differing.items())
        mend = ", ".join(f"model.{room}.{key}={_plain(pair[1])}" for key, pair in differing.items())
        raise UserError(f"init: the {room} of {place} is another than this config's ({said}); set {mend}")
    return [
        f"init: {room} of {place} was made with {key} {_plain(there)}; this config sets {_plain(here)}"
        for key, (here, there) in _differences(_CHANGES[room], ours, theirs).items()
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
