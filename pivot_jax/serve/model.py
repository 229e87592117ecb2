"""A model as the endpoint uses it: its parameters once, its processor, and prompts as rows of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.chat import Chat
from pivot_jax.data.processing.chat import Limits as RowLimits
from pivot_jax.data.processing.dialects import TEMPLATE
from pivot_jax.data.processing.geometry import ImageArrays, Square
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.processing.template import Format
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import RowError, UserError
from pivot_jax.models import stacking
from pivot_jax.models.language_model import LanguageModel
from pivot_jax.rollout.stops import Stops
from pivot_jax.serve import image_urls
from pivot_jax.serve.asked import ChatAsked
from pivot_jax.serve.failure import Failure, bad
from pivot_jax.train.open import LONGEST_PROMPT, OpenEncoder, OpenLanguageModel, OpenModel, load
from pivot_jax.train.source import WeightSource


@dataclass(frozen=True)
class ReadImages:
    """A reference to a row's images that have been read already: what the sampler's reader is given."""

    arrays: ImageArrays

    @staticmethod
    def read(images: Sequence[Any]) -> ImageArrays:
        """Of a row's ``images``, which is one such reference."""
        (one,) = images
        return one.arrays


@dataclass(frozen=True)
class Served:
    """An open model.

    Attributes:
      name: that requests name it by. identity: of its weights.
      params: with a leaf per layer, so that sampler and likelihoods share the arrays.
      processor: of prompts; without images for a language model alone.
    """

    name: str
    identity: str
    module: LanguageModel
    params: dict[str, Any]
    processor: Processor

    @property
    def chat(self) -> Chat:
        return self.processor.chat

    @property
    def tokenizer(self) -> Any:
        return self.processor.chat.tokenizer

    @property
    def images(self) -> int:
        """The most images of a conversation; 0 for a language model alone."""
        return self.chat.limits.images

    def row(self, asked: ChatAsked, most_pixels: int) -> EncodedRow:
        """The prompt of a conversation, its images read.

        Raises:
          Failure: 400, a conversation that the model's template or limits do not take; an image as
            :func:`image_urls.decoded`.
        """
        images = tuple(image_urls.decoded(content, most_pixels, param) for content, param in asked.images)
        try:
            row = self.processor.encode(Example("request", asked.messages, images))
            if not images:
                return row
            return replace(row, images=(ReadImages(self.processor.read_images(row.images)),))
        except RowError as error:
            raise _refused("messages", error.reason) from None
        except UserError as error:
            raise _refused("messages", str(error)) from None

    def check_stops(self, strings: Sequence[str]) -> None:
        """Raises Failure 400 for a stop string that the tokenizer cannot write."""
        try:
            Stops(self.tokenizer, strings)
        except UserError as error:
            raise bad("stop", str(error)) from None

    def text_row(self, prompt: str | tuple[int, ...]) -> EncodedRow:
        """A prompt of text or token ids as it is, without a template.

        Raises:
          Failure: 400, an id that the model does not have, no token, or too many.
        """
        ids = self.tokenizer(prompt, verbose=False)["input_ids"] if isinstance(prompt, str) else prompt
        decoder = self.module.config.decoder
        if outside := [i for i in ids if not 0 <= i < decoder.vocab_size]:
            raise bad("prompt", f"the id {outside[0]}; the model's ids are 0 to {decoder.vocab_size - 1}")
        if not len(ids):
            raise bad("prompt", "it has no token; nothing can follow it")
        if len(ids) > LONGEST_PROMPT:
            raise _refused("prompt", f"the prompt has {len(ids)} tokens, the limit is {LONGEST_PROMPT}")
        tokens, none = np.asarray(ids, np.int32), np.zeros(0, np.int32)
        where = np.arange(len(tokens), dtype=np.int32)
        positions = np.asarray(decoder.text_positions(where[None]))[0]
        return EncodedRow("request", tokens, np.full_like(where, -1), positions, np.zeros_like(where), none, none, none)


def open_served(source: str, *, name: str = "", tokenizer: str = "") -> Served:
    """Opens ``run:WORKDIR[@STEP]``, ``pack:DIR`` or ``hf:FOLDER``.

    Args:
      name: default: that of the folder.
      tokenizer: folder of the tokenizer of a pack, which has none of its own.

    Raises:
      UserError: nothing there, an encoder alone, or a language model without a tokenizer or its chat template.
    """
    found = load(source)
    name = name or WeightSource.parse(source).path.resolve().name
    if isinstance(found, OpenEncoder):
        raise UserError(f"{source} is an encoder without a language model, which answers nothing; name a whole model")
    if isinstance(found, OpenLanguageModel):
        words = load_tokenizer(tokenizer, "--tokenizer") if tokenizer else found.tokenizer
        return Served(name, source, found.module, _layers(found), _text_processor(source, words, found.module))
    if tokenizer:
        raise UserError(f"--tokenizer: {source} has a tokenizer of its own; leave the option out")
    return served_of(found, name)


def served_of(model: OpenModel, name: str) -> Served:
    """An open model under a name. Its own parameters may be deleted: their layers are kept apart."""
    return Served(name, model.identity, model.mllm, _layers(model), model.processor)


def _layers(model: OpenModel | OpenLanguageModel) -> dict[str, Any]:
    """The parameters with a leaf per layer; the stacked arrays are freed."""
    params = stacking.per_layer(model.params)
    kept = {id(leaf) for leaf in jax.tree.leaves(params)}
    for leaf in jax.tree.leaves(model.params):
        if id(leaf) not in kept:
            leaf.delete()
    return params


def _text_processor(source: str, tokenizer: Any, module: LanguageModel) -> Processor:
    if tokenizer is None:
        raise UserError(f"{source} is a pack, which has no tokenizer; name its folder with --tokenizer DIR")
    vocabulary = module.config.decoder.vocab_size
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens and the model {vocabulary}; they do not belong "
            "together, name the model's own with --tokenizer DIR"
        )
    none = Square("siglip", 1, 1)
    format = Format(dialect=TEMPLATE, system="", image_token="")
    chat = Chat(
        tokenizer, none, format, RowLimits(LONGEST_PROMPT, images=0), mrope=bool(module.config.decoder.mrope_section)
    )
    return Processor(chat, none, "prompt")


def _refused(param: str, reason: str) -> Failure:
    long = "tokens, the limit is" in reason
    return Failure(400, f"{param}: {reason}", param=param, code="context_length_exceeded" if long else None)
