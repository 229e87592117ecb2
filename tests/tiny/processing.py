"""Chats and processors for tests, from the settings that a test is about."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from pivot_jax.data.processing.chat import Chat, Kind, Limits
from pivot_jax.data.processing.geometry import Geometry, Square
from pivot_jax.data.processing.images import preset_of
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.processing.template import Format
from pivot_jax.models import layers

_FORMAT = {field.name for field in dataclasses.fields(Format)}
_LIMITS = {"max_length": "length", "max_targets": "targets", "max_images": "images"}


def chat(
    tokenizer: Any, image_tokens: int = 4, *, geometry: Geometry | None = None, mrope: bool = False, **settings: Any
) -> Chat:
    """A chat whose images take ``image_tokens`` tokens each; ``settings`` are fields of Format, and max_* of Limits."""
    geometry = geometry or Square("siglip", 8, image_tokens)
    limits = Limits(**{_LIMITS[name]: settings.pop(name) for name in list(settings) if name in _LIMITS})
    assert set(settings) <= _FORMAT, settings
    return Chat(tokenizer, geometry, Format(**settings), limits, mrope=mrope)


def processor(
    tokenizer: Any, image_tokens: int = 4, *, size: int = 8, kind: Kind = "prompt", **settings: Any
) -> Processor:
    """A processor of square images, or of the ``geometry`` in ``settings``."""
    geometry = settings.pop("geometry", None) or Square(settings.pop("preset", "siglip"), size, image_tokens)
    made = chat(tokenizer, image_tokens, geometry=geometry, **settings)
    return Processor(made, geometry, kind)


def normalise(pixels: Any, preset: str = "siglip") -> Any:
    """uint8 [..., 3] → float32, as the encoders do it with a preset's mean and deviation."""
    rule = preset_of(preset)
    return layers.normalise(pixels, rule.mean, rule.std, jnp.float32)
