"""Trained weights opened for use: a whole run to answer with, or an encoder to probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from pivot_jax import config as configs
from pivot_jax.data.loading.image_cache import cutter_of
from pivot_jax.data.processing.chat import Chat, chat_of
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.models import zoo
from pivot_jax.models.mllm import MLLM
from pivot_jax.train import checkpoint
from pivot_jax.train.extract import ENCODER_PARTS
from pivot_jax.train.source import WeightSource, load_params, run_config

LONGEST_PROMPT = 8192  # tokens; a prompt is padded to what it needs, so this costs nothing


@dataclass(frozen=True)
class OpenRun:
    """A run's model with its weights of one step on the device, and its chat."""

    name: str  # WORKDIR@STEP
    config: Any
    mllm: MLLM
    params: dict[str, Any]
    chat: Chat
    identity: str  # NAME@STEP-CONFIG-CONTENT: what the model is, wherever the run stands


def open_run(workdir: str | Path, step: int | None = None, template: str = "chat") -> OpenRun:
    """The newest (or the named) checkpoint of a run, ready to answer.

    Args:
      template: ``chat`` or ``plain``; "" takes the one that the run was trained with.

    Raises:
      UserError: no such run or checkpoint, or a run of stage 0, which has no language model.
    """
    workdir = Path(workdir)
    config = run_config(workdir)
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
    """An encoder (and its projector, if there is one) on the device, and how it sees pictures."""

    name: str
    mllm: MLLM  # only its vision and projector are to be used
    params: dict[str, Any]
    preset: str
    size: int  # pixels


def open_encoder(text: str) -> OpenEncoder:
    """Encoder of ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR`` (the folder of an encoder or a LLaVA).

    Raises:
      UserError: no such source, or one without an encoder.
    """
    source = WeightSource.parse(text)
    if source.prefix is not None:
        raise UserError(f"{text}: an encoder is read whole; leave out ':{source.prefix}'")
    model, preset = source.encoder()
    if model.vision.traits.patch_input:
        raise UserError(
            f"{text} is a {model.vision.family} encoder, for pictures of any size; probes need one of square images"
        )
    whole = load_params(text)
    params = {part: whole[part] for part in ENCODER_PARTS if part in whole}
    if "vision" not in params:
        raise UserError(f"{text} holds no vision encoder (it has: {', '.join(whole)})")
    return OpenEncoder(text, MLLM(model), jax.device_put(params), preset, model.vision.image_size)
