"""A family of checkpoints: how its config.json reads, how its tensors are named, which files an export writes.

A folder on the hub holds one model class (:class:`Folder`), made of parts: a vision encoder (:class:`VisionFamily`),
a language model (:class:`TextFamily`), and what joins them. The parts are shared between folders: LLaVA's language
model is read by the same table as a Qwen2 folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families import common
from pivot_jax.hub.names import Layout, Rule
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig
from pivot_jax.models.projector import ProjectorConfig

BUFFERS = r"(.*\.)?(position_ids|rotary_emb\.inv_freq)"  # keys of untrained buffers, in files of any family
TOWER = r"(model\.)?vision_tower\.(vision_tower\.)?"  # before an encoder's keys where it is a part of an MLLM

TEXT_TOWER = r"text_model\..*|logit_scale|logit_bias|text_projection\..*|visual_projection\..*"  # dual towers: not read


@dataclass(frozen=True)
class HubModel:
    """Content of a folder. Parts that it lacks are None.

    ``final`` is False where the last vision block was left out of the checkpoint: then ``vision.depth`` still
    counts it: the features come from the same block as in the model that the checkpoint was made from.
    """

    model_type: str
    vision: Any = None  # a VisionConfig
    decoder: DecoderConfig | None = None
    projector: ProjectorConfig | None = None
    final: bool = True
    image_token_id: int | None = None
    image_around: tuple[int, int] | None = None  # ids of the tokens before and after an image's
    video_token_id: int | None = None  # written beside it by the classes that have one; videos are not read
    max_tiles: int = 1  # that an image is split into, with the overview
    # LLaVA's own code may leave the encoder out of its checkpoints: its name then, and the projector's input and output
    # widths, which the parts do not say.
    absent_tower: str = ""
    projector_widths: tuple[int, int] | None = None

    @property
    def mllm(self) -> MLLMConfig:
        """The whole model's configuration; UserError if the folder holds only a part."""
        if self.absent_tower:
            raise UserError(
                f"a '{self.model_type}' checkpoint without the weights of its encoder; read each part from its source: "
                f"init.decoder=hf:FOLDER, init.projector=hf:FOLDER, init.vision=hf:{self.absent_tower}"
            )
        if self.vision is None or self.decoder is None or self.projector is None:
            raise UserError(f"a '{self.model_type}' checkpoint is not a multimodal LLM; use a LLaVA folder")
        return MLLMConfig(self.vision, self.projector, self.decoder)


@dataclass(frozen=True)
class VisionFamily:
    """A vision encoder. Its config is a ``models.vision.VisionConfig``.

    Attributes:
      model_type: of its section in config.json (``vision_config`` of a LLaVA).
      class_name: what loads its folder in transformers.
      prefix: before its keys in a folder of its own and within a tower.
      rules: names of its parameters after that prefix.
      read: (section, file for messages, whether the last block was dropped) → config.
      write: (config, whether the last block is there, dtype) → the section.
      sizes: (config, whether the last block is there) → sizes of the letters and flags in ``rules``.
      words: the same → dimensions in words, for messages.
      spelling: regex for the start of a key that was saved without the prefix.
      wrapper: regex for the prefix of the keys in a folder of a class around the encoder (a classifier).
      ignored, renames, variant, zeros: see :class:`Layout`.
      weights_say: (config, keys of the folder) → config, for what only the weights tell.
      processor: config → preprocessor_config.json, where ``hub.processors`` does not know how the family writes it.
      processor_class: what loads its preprocessor_config.json, for squashing and for cropping presets.
      read_processor: (config, preprocessor_config.json) → config; where ``hub.processors`` cannot read the family's.
      note: for the card of an exported folder.
      whole_class: the class of the whole model, for an encoder that has no folder of its own; "" for the others.
      merger_sizes: (config, decoder's width) → sizes of the letters of ``projector``, where the encoder has its own.
    """

    model_type: str
    class_name: str
    prefix: str
    rules: tuple[Rule, ...]
    read: Callable[[Mapping[str, Any], str, bool], Any]
    write: Callable[[Any, bool, str], dict[str, Any]]
    spelling: str = r"(?!)"
    wrapper: str = r"(?!)"
    ignored: str = r"(?!)"
    renames: tuple[tuple[str, str], ...] = ()
    variant: tuple[str, tuple[Rule, ...]] | None = None
    zeros: tuple[tuple[str, str], ...] = ()
    weights_say: Callable[[Any, Sequence[str]], Any] | None = None
    processor_class: tuple[str, str] = ("ViTImageProcessor", "BitImageProcessor")
    note: str = ""
    sizes: Callable[[Any, bool], dict[str, int]] = common.sizes
    words: Callable[[Any, bool], str] = common.words
    processor: Callable[[Any], dict[str, Any]] | None = None
    read_processor: Callable[[Any, Mapping[str, Any]], Any] | None = None
    whole_class: str = ""
    merger_sizes: Callable[[Any, int], dict[str, int]] | None = None


@dataclass(frozen=True)
class TextFamily:
    """A language model.

    Attributes:
      model_type, class_name, rules: as for :class:`VisionFamily`; keys begin with ``model.`` or are ``lm_head.weight``.
      read: (section, file for messages, whether the wrapper ties the head) → config.
      write: (config, dtype) → the section.
    """

    model_type: str
    class_name: str
    rules: tuple[Rule, ...]
    read: Callable[[Mapping[str, Any], str, bool], DecoderConfig]
    write: Callable[[DecoderConfig, str], dict[str, Any]]


@dataclass(frozen=True)
class Folder:
    """A model class as it is stored in a folder.

    Attributes:
      read: (config.json, its path) → content of the folder.
      layout: names and spellings of its tensors. A composite's depend on the families of its parts.
      class_name: what it usually names in ``architectures``. classes: regex for all that it may name.
    """

    read: Callable[[Mapping[str, Any], Path], HubModel]
    layout: Callable[[HubModel], Layout]
    class_name: str
    classes: str
