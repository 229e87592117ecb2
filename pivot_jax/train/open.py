"""Trained weights opened for use: a whole model to ask, an encoder to probe, or a language model.

:func:`load` opens any weight source and returns its model, encoder or language model. See ``pivot_jax.load``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.chat import Kind
from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.images import load as load_image
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError
from pivot_jax.eval.answerer import Answerer, Decoding
from pivot_jax.models import value_head, zoo
from pivot_jax.models.encoder import Encoder
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.table import batch_kind
from pivot_jax.parallel import runtime
from pivot_jax.train import checkpoint, hub_export, hub_import, pack
from pivot_jax.train.extract import ENCODER_PARTS
from pivot_jax.train.model import processor_of
from pivot_jax.train.source import WeightSource, load_params, run_config, run_tokenizer
from pivot_jax.words import counted

LONGEST_PROMPT = 8192  # tokens; a prompt is padded to its own length, so this costs nothing
DESCRIBE = "Describe the picture."  # the question without a prompt; the scenes data set trains on it
TOGETHER, LENGTH_STEP = 8, 64  # examples scored at once; their lengths are rounded up, so that few shapes are compiled


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of an example's scored tokens.

    Attributes:
      tokens: int32 [t]. logps: float32 [t].
      branches: int32 [t]; 0 counts for every answer, 1 is the (chosen) answer, 2 the rejected one.
    """

    tokens: np.ndarray
    logps: np.ndarray
    branches: np.ndarray

    def sum(self, branch: int = 1) -> float:
        """log p of one answer."""
        return float(self.logps[(self.branches == branch) | (self.branches == 0)].sum())


class _Opened:
    """One line for a notebook: what was opened, and how large it is."""

    name: str
    params: dict[str, Any]

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return f"{type(self).__name__}({self.name!r}, {count / 1e6:,.2f}M parameters: {', '.join(self.params)})"


@dataclass(frozen=True, repr=False)
class OpenModel(_Opened):
    """A whole model (encoder, projector, decoder) with its weights on the device, and its processor.

    Attributes:
      name: weight source, or WORKDIR@STEP.
      identity: identifies the weights wherever they are stored; predictions files keep it.
      workdir: of a run; None for a Hugging Face folder.
      step: optimizer steps that made the weights.
      mesh: that the weights are on; None: one device.
    """

    name: str
    config: Any
    mllm: MLLM
    params: dict[str, Any]
    processor: Processor
    identity: str
    workdir: Path | None = None
    step: int = 0
    mesh: Any = None

    @property
    def module(self) -> MLLM:
        """As of an :class:`OpenEncoder`: encodes images, for the probes."""
        return self.mllm

    @property
    def geometry(self) -> Geometry:
        return self.processor.geometry

    def chat(
        self, prompt: str = "", images: Sequence[Any] = (), *, max_new_tokens: int = 0, temperature: float | None = None
    ) -> str:
        """The answer to a question about images, which come before the question.

        Args:
          prompt: the question; "" asks for a description.
          images: paths, encoded bytes, uint8 arrays [h, w, 3] or PIL images.
          max_new_tokens: in place of ``eval.max_new_tokens`` of the config; 0: as there.
          temperature: in place of ``eval.temperature``.

        Raises:
          UserError: more images than a row has, an image that cannot be read, or image placeholders in the prompt.
        """
        if IMAGE in prompt:
            raise UserError(f"prompt: leave out '{IMAGE}'; every image is placed before the prompt")
        most, plain = self.processor.chat.limits.images, self.processor.chat.format.plain
        if isinstance(images, (str, Path, bytes)):
            raise UserError(f"images: one {type(images).__name__}; write a list, [image]")
        if len(images) > most:
            raise UserError(
                f"{counted(len(images), 'image')}, but this model was trained with at most {most} in a row "
                f"(data.images_per_row); give at most {most}"
            )
        if plain and not images:
            raise UserError("a model of stage 1a describes images; give one")
        for image in images:
            if isinstance(image, (str, Path)) and not Path(image).exists():
                raise UserError(f"image file {image} does not exist")
            load_image(image)
        text = f"{IMAGE}\n" * len(images) + (prompt or ("" if plain else DESCRIBE))
        section = self.config.eval
        answerer = self.answerer(1, section.temperature if temperature is None else temperature)
        example = Example("prompt", (Message("user", text),), tuple(images))
        return answerer.answer([example], max_new_tokens or section.max_new_tokens)[0].text

    def answerer(self, batch_size: int = 0, temperature: float = 0.0, *, blank_images: bool = False) -> Answerer:
        """Answers many examples, ``batch_size`` (0: ``eval.batch_size``) at a time."""
        return Answerer(
            self.mllm,
            self.params,
            self.processor,
            batch_size=batch_size or self.config.eval.batch_size,
            decoding=Decoding(temperature, seed=self.config.seed),
            blank_images=blank_images,
            read_timeout_s=self.config.data.read_timeout_s,
            mesh=self.mesh,
        )

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Image tokens that the decoder reads: float32 [n, p, width]. Raises as :func:`encode_images`."""
        return encode_images(self.mllm, self.params, self.processor.geometry, images, projected=True)

    def logprobs(self, examples: Sequence[Example]) -> list[TokenLogprobs]:
        """Log-probs of the scored tokens of conversations, or of both answers of preference pairs.

        Raises:
          UserError: not a list of examples; RowError: one that cannot be encoded, or an image that cannot be read.
        """
        if isinstance(examples, Example):
            raise UserError("logprobs: one Example; write a list, [example]")
        compute = jax.jit(lambda params, batch: score(self.mllm, params, batch).logps)
        out: list[TokenLogprobs] = []
        for start in range(0, len(examples), TOGETHER):
            part = examples[start : start + TOGETHER]
            kind: Kind = "preference" if part[0].rejected is not None else "sft"
            batch = self.processor.for_kind(kind).batch_of(part, LENGTH_STEP)
            logps = np.asarray(compute(self.params, batch))
            for row, scored in enumerate(batch.weights > 0):
                branches = batch.target_branches[row, scored] if kind == "preference" else np.ones(scored.sum(), int)
                out.append(TokenLogprobs(batch.targets[row, scored], logps[row, scored], branches))
        return out

    def export(self, folder: str | Path, *, dtype: str = "float32", overwrite: bool = False) -> None:
        """Writes the model as a Hugging Face folder. Raises as ``hub_export.write``."""
        options = hub.ExportOptions(dtype, overwrite, f"From {self.name}.")
        hub_export.write(self.config, self.params, self.processor.chat.tokenizer, Path(folder), options)

    def training_processor(self, kind: Kind) -> Processor:
        """The processor with the limits and the template that the model was trained with."""
        return processor_of(self.config, self.mllm, self.processor.chat.tokenizer, kind)


@dataclass(frozen=True, repr=False)
class OpenEncoder(_Opened):
    """An encoder (and its projector, if there is one) on the device, and how its images are prepared."""

    name: str
    module: Encoder
    params: dict[str, Any]
    geometry: Geometry

    @property
    def config_keys(self) -> dict[str, Any]:
        """``overrides`` of :func:`pj.config` for a model with this encoder: dimensions, images, and ``init``.

        Raises:
          UserError: there are two encoders.
        """
        return WeightSource.parse(self.name).encoder_keys() | {"init": {"vision": self.name}}

    def encode_images(self, images: Sequence[Any], *, projected: bool = False) -> np.ndarray:
        """Patch features, float32 [n, p, d]; ``projected``: as a decoder reads them. See :func:`encode_images`."""
        if projected and "projector" not in self.params:
            raise UserError(f"{self.name} has no projector; use projected=False")
        return encode_images(self.module, self.params, self.geometry, images, projected=projected)

    def export(self, folder: str | Path, *, dtype: str = "float32", overwrite: bool = False) -> None:
        """Writes the vision encoder as a Hugging Face folder. Raises as ``hub.export_encoder``."""
        options = hub.ExportOptions(dtype, overwrite, f"From {self.name}.")
        vision: Any = self.module.config.vision
        hub.export_encoder(self.params, vision, Path(folder), options)


@dataclass(frozen=True, repr=False)
class OpenLanguageModel(_Opened):
    """A language model alone on the device, and its tokenizer (None for a pack, which has none)."""

    name: str
    module: LanguageModel
    params: dict[str, Any]
    tokenizer: Any


def encode_images(
    module: Any, params: Any, geometry: Geometry, images: Sequence[Any], *, projected: bool, batch_size: int = 32
) -> np.ndarray:
    """Features of images, each prepared as the model was trained: float32 [n, p, d].

    Args:
      module: an MLLM or an Encoder.
      projected: through the projector.

    Raises:
      UserError: no image, one that cannot be read, or an encoder of variable-resolution images.
    """
    if not geometry.fixed:
        raise UserError(
            f"encode_images: preset '{geometry.preset}' prepares variable-resolution images, whose numbers of tokens "
            "differ; only encoders of square images are supported"
        )
    if not len(images):
        raise UserError("encode_images: no images")
    encode = jax.jit(partial(_encode, module, projected))
    found = []
    for start in range(0, len(images), batch_size):
        pixels = [geometry.convert(load_image(image), True).pixels for image in images[start : start + batch_size]]
        found.append(np.asarray(encode(params, np.stack(pixels)), np.float32))
    return np.concatenate(found)


def _encode(module: Any, projected: bool, params: Any, pixels: Any) -> Any:
    features = module.apply({"params": params}, pixels, method="encode_images")
    return module.apply({"params": params}, features, method="project") if projected else features


def load(text: str) -> OpenModel | OpenEncoder | OpenLanguageModel:
    """Opens ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:FOLDER`` (or ``hf:ORG/NAME``), with its weights on the device.

    Returns:
      An :class:`OpenModel` of a whole model, else an :class:`OpenEncoder` or an :class:`OpenLanguageModel`.

    Raises:
      UserError: nothing of this kind is there, or a model that is not supported.
    """
    source = _whole(text, "a model")
    if source.kind == "run":
        contrastive = batch_kind(run_config(source.path)) == "contrastive"
        return open_encoder(text) if contrastive else open_run(source.path, source.step)
    if source.kind == "pack":
        is_encoder = any(path.startswith("vision/") for path in pack.saved(source.path))
        return open_encoder(text) if is_encoder else open_language_model(text)
    found = hub.read_config(source.path)
    if found.vision is None:
        return open_language_model(text)
    return open_encoder(text) if found.decoder is None else _open_folder(text, source)


def open_run(workdir: str | Path, step: int | None = None, template: str = "chat") -> OpenModel:
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
    runtime.cache_programs()
    mllm = MLLM(zoo.build(config.model, config.data.image))
    step = checkpoint.newest(workdir, step)
    params = jax.device_put(value_head.without(checkpoint.load_run(workdir, step)))
    tokenizer = run_tokenizer(workdir)
    processor = processor_of(config, mllm, tokenizer, "prompt", template=template, max_length=LONGEST_PROMPT)
    identity = f"{config.name}@{step}-{configs.fingerprint(config)}-{checkpoint.content_mark(workdir, step)}"
    return OpenModel(f"{workdir}@{step}", config, mllm, params, processor, identity, workdir, step)


def _open_folder(text: str, source: WeightSource) -> OpenModel:
    """A whole model of a Hugging Face folder, with the config of the run that ``import-hf`` would make of it."""
    runtime.cache_programs()
    folder = hub.folder_of(source.path)
    config = hub_import.run_config(folder, hub.read_config(folder))
    mllm, params = MLLM(zoo.build(config.model, config.data.image)), hub.load_params(folder)
    tokenizer = load_tokenizer(folder)
    processor = processor_of(config, mllm, tokenizer, "prompt", max_length=LONGEST_PROMPT)
    return OpenModel(text, config, mllm, params, processor, f"{config.name}@hf-{configs.fingerprint(config)}")


def open_encoder(text: str) -> OpenEncoder:
    """Encoder of ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR`` (the folder of an encoder or a LLaVA).

    Raises:
      UserError: no such source, or one without an encoder.
    """
    config, geometry = _whole(text, "an encoder").encoder()
    if geometry.arrays > 1:
        raise UserError(
            f"{text} reads an image in tiles, and probes need one grid of features; write its encoder alone with "
            "`pivot-jax export-hf --what encoder` and open that"
        )
    runtime.cache_programs()
    found = load_params(text)
    params = {part: found[part] for part in ENCODER_PARTS if part in found}
    if "vision" not in params:
        raise UserError(f"{text} holds no vision encoder (it has: {', '.join(found)})")
    if "projector" not in params:
        config = replace(config, projector=None)
    return OpenEncoder(text, Encoder(config), jax.device_put(params), geometry)


def open_language_model(text: str) -> OpenLanguageModel:
    """Decoder of ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:DIR`` (the folder of a language model or a whole MLLM).

    Raises:
      UserError: no such source, or one without a language model.
    """
    source = _whole(text, "a language model")
    decoder, dtype = source.decoder()
    runtime.cache_programs()
    if source.kind == "hf":
        params = load_params(f"{text}:decoder")
        tokenizer: Any = load_tokenizer(hub.folder_of(source.path))
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
