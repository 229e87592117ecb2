"""Trained weights opened for use: a whole run to answer with, an encoder to probe, or a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from pivot_jax import config as configs
from pivot_jax.data.processing.chat import Kind
from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.hub.snapshot import folder_of
from pivot_jax.models import zoo
from pivot_jax.models.encoder import Encoder
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.table import batch_kind
from pivot_jax.train import checkpoint
from pivot_jax.train.extract import ENCODER_PARTS
from pivot_jax.train.model import processor_of
from pivot_jax.train.source import WeightSource, load_params, run_config, run_tokenizer

LONGEST_PROMPT = 8192  # tokens; a prompt is padded to what it needs, so this costs nothing


@dataclass(frozen=True)
class OpenRun:
    """A run's model with its weights of one step on the device, and its processor."""

    name: str  # WORKDIR@STEP
    config: Any
    mllm: MLLM
    params: dict[str, Any]
    processor: Processor
    identity: str  # NAME@STEP-CONFIG-CONTENT: identifies the model wherever the run is stored

    def training_processor(self, kind: Kind) -> Processor:
        """The processor with the limits and the template that the run was trained with."""
        return processor_of(self.config, self.mllm, self.processor.chat.tokenizer, kind)


def open_run(workdir: str | Path, step: int | None = None, template: str = "chat") -> OpenRun:
    """The newest (or the named) checkpoint of a run, ready to answer.

    Args:
      template: ``chat`` or ``plain``; "" takes the one that the run was trained with.

    Raises:
      UserError: no such run or checkpoint, or a run of stage 0, which has no language model.
    """
    workdir = Path(workdir)
    config = run_config(workdir)
    if batch_kind(config) == "contrastive":
        raise UserError(f"{workdir} is a run of stage 0: an encoder without a language model; it can be probed only")
    mllm = MLLM(zoo.build(config.model, config.data.image))
    step = checkpoint.newest(workdir, step)
    params = jax.device_put(checkpoint.load_run(workdir, step))
    tokenizer = run_tokenizer(workdir)
    processor = processor_of(config, mllm, tokenizer, "prompt", template=template, max_length=LONGEST_PROMPT)
    identity = f"{config.name}@{step}-{configs.fingerprint(config)}-{checkpoint.content_mark(workdir, step)}"
    return OpenRun(f"{workdir}@{step}", config, mllm, params, processor, identity)


@dataclass(frozen=True)
class OpenEncoder:
    """An encoder (and its projector, if there is one) on the device, and how its images are prepared."""

    name: str
    module: Encoder
    params: dict[str, Any]
    geometry: Geometry


def open_encoder(text: str) -> OpenEncoder:
    """Encoder of ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR`` (the folder of an encoder or a LLaVA).

    Raises:
      UserError: no such source, or one without an encoder.
    """
    config, geometry = _whole(text, "an encoder").encoder()
    if not geometry.fixed:
        raise UserError(
            f"{text} is a {config.vision.family} encoder, for variable-resolution images; probes need one of square "
            "images"
        )
    found = load_params(text)
    params = {part: found[part] for part in ENCODER_PARTS if part in found}
    if "vision" not in params:
        raise UserError(f"{text} holds no vision encoder (it has: {', '.join(found)})")
    if "projector" not in params:
        config = replace(config, projector=None)
    return OpenEncoder(text, Encoder(config), jax.device_put(params), geometry)


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
    decoder, dtype = source.decoder()
    if source.kind == "hf":
        params = load_params(f"{text}:decoder")
        tokenizer: Any = load_tokenizer(folder_of(source.path))
    else:
        found = load_params(text)
        if "decoder" not in found:
            raise UserError(f"{text} holds no language model (it has: {', '.join(found)})")
        params = found["decoder"]
        tokenizer = run_tokenizer(source.path) if source.kind == "run" else None
    module = LanguageModel(LanguageModelConfig(decoder, dtype))
    return OpenLanguageModel(text, module, {"decoder": jax.device_put(params)}, tokenizer)


def _whole(text: str, what: str) -> WeightSource:
    """A weight source without a prefix."""
    source = WeightSource.parse(text)
    if source.prefix is not None:
        raise UserError(f"{text}: {what} is read whole; leave out ':{source.prefix}'")
    return source
