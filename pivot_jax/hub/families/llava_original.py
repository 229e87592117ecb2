"""Checkpoints of LLaVA's own code (LLaVA-1.5, LLaVA-NeXT, PIVOT), and projectors that it saved alone.

Their config.json is the language model's with ``mm_…`` keys beside it; the encoder is only named, and its dimensions
come from the zoo. Of a SigLIP the code drops the last block when it loads the encoder, so a checkpoint may lack it; and
it may lack the encoder altogether, when that was not trained.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families.base import BUFFERS, TOWER, Folder, HubModel, TextFamily
from pivot_jax.hub.families.llama import LLAMA
from pivot_jax.hub.families.parts import text_of, vision_of
from pivot_jax.hub.families.qwen2 import QWEN2
from pivot_jax.hub.fields import Fields
from pivot_jax.hub.names import Layout, Rule, linear, within
from pivot_jax.hub.shards import Shards
from pivot_jax.models import zoo
from pivot_jax.models.mllm import ProjectorConfig
from pivot_jax.models.vit import ViTConfig

LANGUAGES: dict[str, TextFamily] = {"llava_qwen": QWEN2, "llava_llama": LLAMA}
DEFAULTS: dict[str, Any] = {
    "mm_vision_tower": "",
    "mm_hidden_size": 0,
    "mm_projector_type": "linear",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
}
PROJECTOR = "projector"  # HubModel.model_type of a projector alone
_PICKLES = (".bin", ".pt", ".pth")


def read(raw: Mapping[str, Any], path: Path) -> HubModel:
    """Raises UserError for what we do not compute: tiles, other projectors, an encoder that the zoo does not know."""
    fields = Fields(raw, DEFAULTS, str(path))
    kind = {"llava": "llava_llama"}.get(raw["model_type"], raw["model_type"])
    named = fields["mm_vision_tower"]
    vision = _tower(fields, named)
    fields.only("mm_vision_select_layer", -2)
    fields.only("mm_vision_select_feature", "patch")
    fields.only("mm_use_im_start_end", False)
    if "anyres" in str(raw.get("image_aspect_ratio")):
        raise fields.fail("image_aspect_ratio", "asks for tiles of an image; set 'square' to use it on whole images")
    if fields["mm_hidden_size"] not in (0, vision.width):
        raise fields.fail("mm_hidden_size", f"is {fields['mm_hidden_size']}, but '{named}' has {vision.width}")
    decoder = LANGUAGES[kind].read(raw, str(path), False)
    projector = ProjectorConfig(layers=_projector_layers(fields), reused=0)
    with Shards(path.parent) as shards:
        keys = [key for key in shards.keys if re.match(TOWER, key)]
    if not keys:
        widths = vision.width, decoder.width
        return HubModel(kind, None, decoder, projector, absent_tower=named, projector_widths=widths)
    final = any(f"encoder.layers.{vision.depth - 1}." in key for key in keys)
    pool_head = vision.pool_head and any(".head." in key for key in keys)
    vision = dataclasses.replace(vision, pool_head=pool_head)
    return HubModel(kind, vision, decoder, projector, final=final)


def _tower(fields: Fields, named: str) -> ViTConfig:
    """The zoo's encoder of that name; of a path, the one that its last folder is named like."""
    known = zoo.VISION
    found = [name for name in known if name == named] or [
        name for name in known if name.split("/")[-1] == Path(named).name
    ]
    if len(found) != 1:
        words = f"is '{named}', an encoder of unknown dimensions{zoo.near(named, known)}"
        raise fields.fail("mm_vision_tower", f"{words}; set it to the encoder's name on the hub")
    vision = known[found[0]]
    if not vision.traits.penultimate or vision.traits.patch_input:
        raise fields.fail("mm_vision_tower", f"is '{named}', which LLaVA does not take features of as we do")
    return vision


def _projector_layers(fields: Fields) -> int:
    kind = fields["mm_projector_type"]
    found = re.fullmatch(r"linear|mlp(\d+)x_gelu", kind)
    if not found or found[1] == "0":
        raise fields.fail("mm_projector_type", f"is {kind!r}; supported: linear, mlp2x_gelu and so on")
    return int(found[1] or 1)


def layout(model: HubModel) -> Layout:
    """Keys as LLaVA's code writes them."""
    rules: tuple[Rule, ...] = _projector_rules(model.projector.layers if model.projector else 0)
    spellings: tuple[tuple[str, str], ...] = ((r"(model\.)?mm_projector\.", "model.mm_projector."),)
    if model.decoder:
        rules += text_of(model.decoder).rules
    if model.vision:
        tower = vision_of(model.vision)
        prefix = f"model.vision_tower.vision_tower.{tower.prefix}"
        rules += within(tower.rules, theirs=prefix)
        spellings += ((rf"{TOWER}({re.escape(tower.prefix)})?", prefix),)
    return Layout(rules, spellings, rf"{BUFFERS}|model\.image_newline")  # the last separates tiles


def _projector_rules(layers: int) -> tuple[Rule, ...]:
    """i image feature width, d e decoder width. A single Linear has no number; an activation takes one."""
    if layers == 1:
        return linear("projector/fc1", "model.mm_projector", "i d")
    return tuple(
        rule
        for index in range(layers)
        for rule in linear(f"projector/fc{index + 1}", f"model.mm_projector.{2 * index}", "d e" if index else "i d")
    )


def projector_alone(path: Path) -> HubModel | None:
    """A safetensors file, or a folder of some without a whole model, that holds only a projector; else None.

    Raises:
      UserError: a pickle (PyTorch's own format), which could run code when it is read.
    """
    pickle = _pickle(path)
    if pickle is not None:
        raise UserError(f"{pickle}: pickled weights are not read; convert them: {_convert(pickle)}")
    files = projector_files(path)
    if not files:
        return None
    with Shards(files[0].parent, [file.name for file in files]) as shards:
        shapes = {key: shards.shape(key) for key in shards.keys}
    if not all(re.match(r"(model\.)?mm_projector\.", key) for key in shapes):
        return None
    weights = [shapes[key] for key in sorted(shapes, key=lambda key: (len(key), key)) if key.endswith(".weight")]
    if not weights or any(len(shape) != 2 for shape in weights):
        raise UserError(f"{path}: its projector is not made of Linear layers (keys: {', '.join(sorted(shapes))})")
    widths = weights[0][1], weights[0][0]
    return HubModel(PROJECTOR, projector=ProjectorConfig(layers=len(weights)), projector_widths=widths)


def projector_files(path: Path) -> list[Path]:
    """The safetensors file that ``path`` is, or those of a folder that holds no whole model."""
    if path.is_file():
        return [path] if path.suffix == ".safetensors" else []
    files = sorted(path.glob("*.safetensors"))
    return [] if any(file.name.startswith("model") for file in files) else files


def _pickle(path: Path) -> Path | None:
    """A projector in PyTorch's own format: the file, or the one of a folder that has no safetensors."""
    if path.is_file():
        return path if path.suffix in _PICKLES else None
    if list(path.glob("*.safetensors")):
        return None
    return next((file for suffix in _PICKLES if (file := path / f"mm_projector{suffix}").is_file()), None)


def _convert(pickle: Path) -> str:
    new = pickle.with_suffix(".safetensors")
    load = f"torch.load('{pickle}', weights_only=True, map_location='cpu')"
    return f"python -c \"import torch, safetensors.torch as s; s.save_file({load}, '{new}')\""


CLASSES = r"Llava\w+ForCausalLM"  # LlavaLlamaForCausalLM, LlavaQwenForCausalLM, …
FOLDERS: dict[str, Folder] = {kind: Folder(read, layout, "LlavaLlamaForCausalLM", CLASSES) for kind in LANGUAGES}
