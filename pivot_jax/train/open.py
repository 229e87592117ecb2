"""Trained weights opened for use: a whole run to answer with, an encoder to probe, or a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from pivot_jax import config as configs
from pivot_jax.data.loading.image_cache import cutter_of
from pivot_jax.data.processing.chat import Chat, chat_of
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.hub import configs as hub_configs
from pivot_jax.hub.snapshot import folder_of
from pivot_jax.models import zoo
from pivot_jax.models.encoder import Encoder, EncoderConfig
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.models.mllm import MLLM
from pivot_jax.train import checkpoint
from pivot_jax.train.compatibility import config_of
from pivot_jax.train.extract import ENCODER_ROOMS, read_config
from pivot_jax.train.source import Source, load_params

LONGEST_PROMPT = 8192  # tokens; a prompt is padded to what it needs, so this costs nothing


@dataclass(frozen=True)
class OpenRun:
    """A run's model with its weights of one step on the device, and its chat."""

    name: str  # WORKDIR@STEP
    config: Any
    mllm: MLLM
    params: dict[str, Any]
    chat: Chat
    identity: str  # NAME@STEP-CONFIG-CONTENT: identifies the model wherever the run is stored


def open_run(workdir: str | Path, step: int | None = None, template: str = "chat") -> OpenRun:
    """The newest (or the named) checkpoint of a run, ready to answer.

    Args:
      template: ``chat`` or ``plain``; "" takes the one that the run was trained with.

    Raises:
      UserError: no such run or checkpoint, or a run of stage 0, which has no language model.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    if config.stage == "contrastive":
        raise UserError(f"{workdir} is a run of stage 0: an encoder without a language model; it can be probed only")
    mllm = MLLM(zoo.build(config.model, config.data.image))
    step = checkpoint.newest(workdir, step)
    params = jax.device_put(checkpoint.load_run(workdir, step))
    chat = chat_of(
        config,
        load_tokenizer(config.tokenizer.path),
        "prompt",
        mllm.config.image_tokens,
        cutter_of(config.data.image, mllm.config.vision.patch_size),
        bool(mllm.config.decoder.mrope_section),
        template=template or config.data.template,
        max_length=LONGEST_PROMPT,
        max_targets=0,
    )
    identity = f"{config.name}@{step}-{configs.fingerprint(config)}-{checkpoint.content_mark(workdir, step)}"
    return OpenRun(f"{workdir}@{step}", config, mllm, params, chat, identity)


@dataclass(frozen=True)
class OpenEncoder:
    """An encoder (and its projector, if there is one) on the device, and its image preprocessing."""

    name: str
    module: Encoder
    params: dict[str, Any]
    preset: str
    size: int  # pixels


def open_encoder(text: str) -> OpenEncoder:
    """Encoder of ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR`` (the folder of an encoder or a LLaVA).

    Raises:
      UserError: no such source, or one without an encoder.
    """
    source = _whole(text, "an encoder")
    config, preset = _encoder_config(source)
    vision: Any = config.vision
    if vision.traits.patch_input:
        raise UserError(
            f"{text} is a {vision.family} encoder, for variable-resolution images; probes need one of square images"
        )
    found = load_params(text)
    params = {part: found[part] for part in ENCODER_ROOMS if part in found}
    if "vision" not in params:
        raise UserError(f"{text} holds no vision encoder (it has: {', '.join(found)})")
    if "projector" not in params:
        config = replace(config, projector=None)
    return OpenEncoder(text, Encoder(config), jax.device_put(params), preset, vision.image_size)


def _encoder_config(source: Source) -> tuple[EncoderConfig, str]:
    """Encoder and preset name of a source."""
    if source.kind == "hf":
        found = hub_configs.read(source.place)
        if found.vision is None:
            raise UserError(f"{source.place} is a '{found.model_type}' folder, which holds no vision encoder")
        if found.decoder is None or found.projector is None:
            return EncoderConfig(found.vision), found.vision.preset
        return found.mllm.encoder, found.vision.preset
    config = config_of(source)
    return zoo.build(config.model, config.data.image).encoder, config.data.image.preset


@dataclass(frozen=True)
class OpenLanguageModel:
    """A language model alone on the device, and its tokenizer."""

    name: str
    module: LanguageModel
    params: dict[str, Any]
    tokenizer: Any  # None for a pack, which has none


def open_language_model(text: str) -> OpenLanguageModel:
    """Decoder of ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR`` (the folder of a language model or a whole MLLM).

    Raises:
      UserError: no such source, or one without a language model.
    """
    source = _whole(text, "a language model")
    if source.kind == "hf":
        decoder, dtype = hub_configs.read(source.place).decoder, "float32"
        if decoder is None:
            raise UserError(f"{text} holds no language model")
        params = load_params(f"{text}:decoder")
        tokenizer: Any = load_tokenizer(folder_of(source.place))
    else:
        config = config_of(source)
        model = zoo.build(config.model, config.data.image)
        decoder, dtype = model.decoder, model.dtype
        found = load_params(text)
        if "decoder" not in found:
            raise UserError(f"{text} holds no language model (it has: {', '.join(found)})")
        params = found["decoder"]
        tokenizer = load_tokenizer(config.tokenizer.path) if source.kind == "run" else None
    module = LanguageModel(LanguageModelConfig(decoder, dtype))
    return OpenLanguageModel(text, module, {"decoder": jax.device_put(params)}, tokenizer)


def _whole(text: str, what: str) -> Source:
    """A source without a prefix."""
    source = Source.parse(text)
    if source.prefix is not None:
        raise UserError(f"{text}: {what} is read whole; leave out ':{source.prefix}'")
    return source
