"""A decoder alone: a language model that reads tokens and no images.

The parameter tree is ``decoder``, as in an MLLM, which is a language model with image tokens in its input.
Letters: b rows, n tokens, d width, l layers, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.data.processing.batch import VLMBatch
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.shapes import round_up

Array = jax.Array


@dataclass(frozen=True)
class LanguageModelConfig:
    """A decoder, and the dtype that it computes in."""

    decoder: DecoderConfig
    dtype: str = "float32"


class LanguageModel(nn.Module):
    """Use through ``model.apply({"params": params}, ..., method="...")``; see each method.

    ``logprobs.score`` and ``rollout.sampler`` take it as they take an MLLM.
    """

    config: Any  # LanguageModelConfig; MLLMConfig in an MLLM

    def setup(self) -> None:
        self.decoder = self.config.decoder.module(self.config.dtype)

    def embed(self, batch: Any, image_features: Array | None = None) -> Array:
        """Decoder input [b, n, d]: token embeddings.

        Raises:
          ValueError: a batch with images.
        """
        if image_features is not None or batch.images.shape[1]:
            raise ValueError("a language model reads no images; use an MLLM")
        return self.decoder.embed_tokens(batch.tokens)

    def hidden(self, batch: Any, image_features: Array | None = None) -> Array:
        """Closing-norm states [b, n, d] of a ``VLMBatch`` or ``PromptBatch``.

        Args:
          image_features: [b, m*p, d_vision] to use instead of encoding ``batch.images`` (of an MLLM).
        """
        branches = getattr(batch, "branches", None)
        return self.decoder.hidden(self.embed(batch, image_features), batch.positions, batch.segments, branches)

    def hidden_and_similarity(self, batch: Any) -> tuple[Array, Array]:
        """:meth:`hidden`, and how similar each token is to the row's image tokens: float32 [b, n], -1 to 1.

        The mean over layers (those of :meth:`layer_means`) and over image tokens of the cosine between the states of
        the token and of the image token, as PEPO's perception prior; 0 in a row without images. Rows must not be
        packed. All layers' states are in memory together, [l + 1, b, n, d].
        """
        branches = getattr(batch, "branches", None)
        states = self.decoder.layer_states(self.embed(batch), batch.positions, batch.segments, branches)
        product = partial(jnp.einsum, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)
        lengths = jnp.sqrt(jnp.maximum(product("lbnd,lbnd->lbn", states, states), 1e-24))
        seen = (batch.image_slots >= 0).astype(jnp.float32)
        shares = seen / jnp.maximum(seen.sum(axis=1, keepdims=True), 1.0)
        image = product("lbnd,lbn->lbd", states, shares / lengths)  # mean of the image tokens' unit vectors
        return states[-1], jnp.mean(product("lbnd,lbd->lbn", states, image) / lengths, axis=0)

    def layer_means(self, batch: Any) -> Array:
        """Hidden states of each layer, averaged over a row's tokens: float32 [b, l + 1, d].

        Entry 0 is the embeddings, entry i the output of block i - 1, the last one after the closing norm: as
        ``hidden_states`` of transformers. Rows must not be packed (one row a sequence).
        """
        weights = (batch.segments > 0).astype(jnp.float32)
        sums = jnp.einsum("lbnd,bn->bld", self._layers(batch), weights, precision=jax.lax.Precision.HIGHEST)
        return sums / jnp.maximum(weights.sum(axis=1), 1.0)[:, None, None]

    def layer_last_tokens(self, batch: Any) -> Array:
        """As :meth:`layer_means`, of each row's last token alone: float32 [b, l + 1, d]."""
        last = jnp.maximum((batch.segments > 0).sum(axis=1) - 1, 0)
        return jnp.take_along_axis(self._layers(batch), last[None, :, None, None], axis=2)[:, :, 0].swapaxes(0, 1)

    def _layers(self, batch: Any) -> Array:
        states = self.decoder.layer_states(self.embed(batch), batch.positions, batch.segments)
        return states.astype(jnp.float32)


def text_batch(rows: Sequence[Sequence[int]], decoder: DecoderConfig, pad_id: int = 0, multiple: int = 1) -> VLMBatch:
    """Token ids of plain texts, right padded; every token but the first of a row is a target of ``logprobs.score``.

    Args:
      rows: b rows of 1 to n ids.
      multiple: n is rounded up to one of its multiples, so that few shapes are compiled.

    Raises:
      ValueError: no row, or a row without tokens.
    """
    lengths = np.array([len(row) for row in rows])
    if not len(lengths) or lengths.min() < 1:
        raise ValueError("a batch of texts needs at least one row, and every row a token")
    b, n = len(rows), round_up(int(lengths.max()), multiple)
    tokens = np.full((b, n), pad_id, np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    indices = np.broadcast_to(np.arange(n, dtype=np.int32), (b, n))
    zeros = np.zeros((b, n - 1), np.int32)
    return VLMBatch(
        images=np.zeros((b, 0, 1, 1, 3), np.uint8),
        tokens=tokens,
        image_slots=np.full((b, n), -1, np.int32),
        positions=np.asarray(decoder.text_positions(indices)),
        segments=(indices < lengths[:, None]).astype(np.int32),
        branches=np.zeros((b, n), np.int32),
        sources=indices[:, :-1],
        targets=tokens[:, 1:],
        weights=(indices[:, 1:] < lengths[:, None]).astype(np.float32),
        target_branches=zeros,
        target_rows=zeros,
        row_index=np.arange(b, dtype=np.int32)[:, None],
    )


def head_matrix(params: dict[str, Any]) -> Array:
    """Output matrix [v, d]: the head, or the embedding table where they are tied."""
    decoder = params["decoder"]
    return decoder["head"] if "head" in decoder else decoder["embed"]
