"""Zero-shot classes and retrieval: an encoder's pooled vectors beside those of a text tower that it was trained with.

Letters: n images, c classes, d width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from pivot_jax.data.processing.chat import Chat
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.hub.snapshot import folder_of
from pivot_jax.hub.text_tower import read_text_tower
from pivot_jax.models.siglip import TextConfig
from pivot_jax.objectives.table import batch_kind
from pivot_jax.train.model import build_model, processor_of
from pivot_jax.train.source import WeightSource, load_params, run_config, run_tokenizer

TEMPLATE = "This is a photo of {}."  # SigLIP2's zero-shot template (model card)
BATCH = 64


@dataclass(frozen=True, repr=False)
class TextEncoder:
    """A text tower on the device.

    Attributes:
      ids: a text → its token ids, as many as the tower takes at most.
      pad: the token at padding, to which SigLIP's towers attend.
    """

    name: str
    config: TextConfig
    params: Any
    ids: Callable[[str], Sequence[int]]
    pad: int

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [n, max_length]."""
        tokens = np.full((len(texts), self.config.max_length), self.pad, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            ids = self.ids(text)
            row[: len(ids)] = ids
        return tokens

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts: float32 [n, d]. A text that is too long is cut, as in training."""
        tokens, tower = self.tokens(texts), jax.jit(partial(self.config.module().apply, {"params": self.params}))
        found = [np.asarray(tower(part)) for part in np.split(tokens, range(BATCH, len(tokens), BATCH))]
        return unit(np.concatenate(found))


def open_text_encoder(text: str) -> TextEncoder:
    """The text tower of ``run:WORKDIR`` (a stage 0) or ``hf:FOLDER`` (a whole SigLIP or SigLIP2).

    Raises:
      UserError: neither of these.
    """
    source = WeightSource.parse(text)
    if source.kind == "hf":
        folder = folder_of(source.path)
        config, params = read_text_tower(folder)
        tokenizer = load_tokenizer(str(folder))
        return TextEncoder(text, config, params, partial(_ended, tokenizer, config.max_length), _pad(tokenizer))
    if source.kind != "run" or batch_kind(run_config(source.path)) != "contrastive":
        raise UserError(f"{text}: has no text tower; name a stage 0 as run:WORKDIR, or a whole SigLIP as hf:FOLDER")
    run, tokenizer = run_config(source.path), run_tokenizer(source.path)
    towers = build_model(run, len(tokenizer)).module
    chat = processor_of(run, towers, tokenizer, "contrastive").chat
    params = jax.device_put(load_params(text)["text"])
    return TextEncoder(text, towers.text_config, params, partial(_caption, chat), chat.pad_id)


def _ended(tokenizer: Any, most: int, text: str) -> list[int]:
    """With the token that ends SigLIP's texts; it stays where the text is cut."""
    ids = tokenizer(text.strip())["input_ids"]
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def _pad(tokenizer: Any) -> int:
    if tokenizer.pad_token_id is None:
        raise UserError("the text tower's tokenizer has no pad token, to which the tower attends; set pad_token")
    return int(tokenizer.pad_token_id)


def _caption(chat: Chat, text: str) -> Sequence[int]:
    """As :meth:`Chat.encode` makes the row of a caption."""
    return chat.template.text(text.strip())[: chat.limits.length - 1]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, in float32."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def classified(images: np.ndarray, texts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the nearest class text is the image's: bool [n]. images [n, d] and texts [c, d] are unit vectors."""
    return (images @ texts.T).argmax(1) == labels


def retrieved(images: np.ndarray, texts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether an image's own text is among the k nearest, and a text's own image: bool [n] each.

    Pairs are rows of both. Texts that are equal to the own one count as it, as captions of a small world often are.
    """
    own = np.unique(texts.round(6), axis=0, return_inverse=True)[1].reshape(-1)
    scores = images @ texts.T
    nearest_text = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    nearest_image = np.argsort(-scores, axis=0, kind="stable")[:k].T
    return (own[nearest_text] == own[:, None]).any(1), (own[nearest_image] == own[:, None]).any(1)
