"""preprocessor_config.json: how an encoder's images are resized, cropped and normalised, to and from our presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.data.processing.images import PRESETS, Preset
from pivot_jax.errors import UserError
from pivot_jax.hub.families.parts import vision_of
from pivot_jax.hub.fields import read_json
from pivot_jax.models.vision import SquareVisionConfig


def read(cfg: Any, folder: Path) -> Any:
    """The encoder with the preset, the normalisation and the image size of the folder's image processor.

    Where the processor's image size is not that of the position table, the table is resized (``pos_grid``). Without a
    processor's file the family's first preset is used (of ``Traits.presets``).

    Raises:
      UserError: a way of resizing or a size that no preset has.
    """
    own = vision_of(cfg).read_processor
    if own is None:
        cfg = _with_preset(cfg, cfg.traits.presets[0])
    for name, inside in (("preprocessor_config.json", False), ("processor_config.json", True)):
        raw = read_json(folder / name) if (folder / name).is_file() else {}
        raw = raw.get("image_processor") or {} if inside else raw
        if "image_mean" in raw and "image_std" in raw:
            if own is not None:
                return own(cfg, raw)
            return _applied(cfg, cfg.traits.presets, raw, folder / name)
    return cfg


def _applied(cfg: Any, presets: tuple[str, ...], raw: Mapping[str, Any], path: Path) -> Any:
    statistics: dict[str, Any] = {key: tuple(map(float, raw[f"image_{key}"])) for key in ("mean", "std")}
    if "size" in raw and not cfg.traits.patch_input:
        squash, short, size = _geometry(raw, path)
        fitting = [name for name in (*presets, *PRESETS) if _fits(PRESETS[name], raw, squash, short, size)]
        if not fitting:
            raise UserError(
                f"{path}: no preset of data.image.preset resizes to {raw['size']} with resample {raw.get('resample')}; "
                f"remove the file to use '{presets[0]}'"
            )
        same = [name for name in fitting if _statistics(PRESETS[name]) == statistics]
        cfg = _with_preset(cfg, (same or fitting)[0]).resized(size)
    if "max_num_patches" in raw and cfg.traits.patch_input:
        most = int(raw["max_num_patches"])
        cfg = dataclasses.replace(cfg, max_patches=0 if most == cfg.pos_side**2 else most)
    return dataclasses.replace(cfg, **statistics)


def _with_preset(cfg: Any, name: str) -> Any:
    return dataclasses.replace(cfg, preset=name, **_statistics(PRESETS[name]))


def _statistics(preset: Preset) -> dict[str, Any]:
    return {"mean": preset.mean, "std": preset.std}


def _geometry(raw: Mapping[str, Any], path: Path) -> tuple[bool, int, int]:
    """Whether images are squashed, their shorter side after the resize, and their size after the crop."""
    size, crop = raw["size"], raw.get("crop_size")
    if "crop_pct" in raw and isinstance(size, Mapping) and "shortest_edge" in size:  # ConvNeXt
        side = size["shortest_edge"]
        return (True, side, side) if side >= 384 else (False, int(side / raw["crop_pct"]), side)
    cropped = raw.get("do_center_crop", crop is not None)
    if isinstance(size, Mapping):
        side = _side(size, path) if "shortest_edge" not in size else size["shortest_edge"]
        squash = "shortest_edge" not in size
    else:  # before transformers 4.26: one number, which is the shorter side for processors that crop
        side, squash = size, not cropped
    if not cropped:
        if not squash:
            raise UserError(
                f"{path}: 'size' is {size} without a crop, which gives no squares; only squares are supported"
            )
        return squash, side, side
    pixels = side if crop is None else _side(crop, path) if isinstance(crop, Mapping) else crop
    if squash and side != pixels:
        raise UserError(f"{path}: images are squashed to {side} and cropped to {pixels}, which no preset does")
    return squash, side, pixels


def _side(size: Mapping[str, Any], path: Path) -> int:
    height, width = size.get("height"), size.get("width")
    if height != width or not isinstance(height, int):
        raise UserError(f"{path}: size {dict(size)} is not a square; only squares are supported")
    return height


def _fits(preset: Preset, raw: Mapping[str, Any], squash: bool, short: int, size: int) -> bool:
    resample = raw.get("resample", preset.interpolation)
    same = not preset.sizing and preset.squash == squash and resample == preset.interpolation
    return same and (squash or preset.shorter_side(size) == short)


def write(cfg: SquareVisionConfig) -> dict[str, Any]:
    """preprocessor_config.json of the encoder's family for its preset.

    With the presets of torchvision's crop (mae, sup, moco) the file's processor crops one pixel off ours where a margin
    is odd: transformers rounds it down.
    """
    family = vision_of(cfg)
    if family.processor:
        return family.processor(cfg)
    preset, size = PRESETS[cfg.preset], cfg.image_size
    square = {"height": size, "width": size}
    classes = family.processor_class
    common = {
        "image_processor_type": classes[0] if preset.squash else classes[1],
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": int(preset.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
    }
    if cfg.traits.patch_input:
        return {**common, "patch_size": cfg.patch_size, "max_num_patches": cfg.patches}
    if preset.squash:
        return {**common, "size": square}
    short = {"shortest_edge": preset.shorter_side(size)}
    return {**common, "size": short, "do_center_crop": True, "crop_size": square}
