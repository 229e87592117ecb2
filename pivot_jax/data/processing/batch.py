"""Encoded rows, and batches of arrays: what flows from the data to the models.

Letters: b sequences, k rows in each, n tokens, m images per row, p patch tokens per image, t scored targets.

A row is one conversation, one preference pair that shares image and prompt, or a group of responses to one prompt.
A sequence of a :class:`VLMBatch` holds k rows one after the other (``data.packing``; k = 1: one row), each with
positions and branches of its own. Two integer arrays say which tokens attend to each other:

* ``segments``: 0 is padding, 1 to k the rows; tokens with different segments never attend to each other.
* ``branches``: 0 is the shared prompt, 1, 2, ... are alternative responses (of preference rows 1 = chosen,
  2 = rejected, 3 = an answer to another prompt). A token attends to branch 0 and its own branch only; ``positions``
  restart after the prompt in each branch.

The targets are an explicit list, not a shifted mask: target ``targets[b, t]`` is predicted from the hidden
state at token ``sources[b, t]``. So the first token of *each* branch is predicted from the prompt's last
token, and the vocabulary projection runs over targets only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import struct

CHOSEN, REJECTED, MISMATCHED = 1, 2, 3  # branches of a preference row


@dataclass(frozen=True)
class EncodedRow:
    """One tokenised row, not padded: 1-D int32 arrays as in :class:`VLMBatch`; its images are still references."""

    id: str
    tokens: np.ndarray
    image_slots: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    target_branches: np.ndarray
    images: tuple[Any, ...] = ()
    tile_taps: np.ndarray | None = None  # int32 [n, 4] and float32 [n, 4], see VLMBatch
    tile_weights: np.ndarray | None = None
    truncated: bool = False  # text was truncated to the length limit


@struct.dataclass
class VLMBatch:
    """Arrays of one training batch. Images are uint8 RGB, already resized; the model normalises them."""

    # uint8 [b, k*m, height, width, 3]; zeros where a row has fewer than m images. Encoders for variable-resolution
    # images take lists of patches instead: [b, k*m, p, patch*patch*3], values in order row, column, colour.
    images: Any
    tokens: Any  # int32 [b, n]; image slots hold the image token's id
    image_slots: Any  # int32 [b, n]; index into the sequence's k*m*p image tokens, -1 at text
    positions: Any  # int32 [b, n]; rotary positions. Of a decoder with M-RoPE: [b, n, 3] (time, row, column)
    segments: Any  # int32 [b, n]; 0 padding
    branches: Any  # int32 [b, n]; 0 shared prompt
    sources: Any  # int32 [b, t]; token index whose hidden state predicts the target
    targets: Any  # int32 [b, t]
    weights: Any  # float32 [b, t]; 0 where there is no target
    target_branches: Any  # int32 [b, t]; 0 counts for every branch
    target_rows: Any  # int32 [b, t]; which of the sequence's k rows the target belongs to, from 0
    row_index: Any  # int32 [b, k]; index of the row in the loader's data set, -1 for a masked row
    # Of each scored target, float32 [b, t] with 0 where there is none, or None.
    ref_logps: Any = None  # its log-prob under the reference model
    old_logps: Any = None  # under the policy at the start of the update
    advantages: Any = None  # the advantage that it is trained with
    sampling_logps: Any = None  # its log-prob under the distribution that it was sampled from
    masked_logps: Any = None  # under the policy at the start of the update, with masked images
    importance: Any = None  # weight that corrects for the difference between old_logps and sampling_logps
    old_values: Any = None  # the value head's, of the state that predicts it, at the start of the update
    returns: Any = None  # what the value head is trained to predict there; NaN where the response has no reward
    patch_positions: Any = None  # int32 [b, k*m, p, 2]; (row, column) of each patch, -1 at padding; or None
    features: Any = None  # [b, k*m*p, d_vision] of a frozen encoder, in place of encoding the images; or None
    # Of images split into tiles (then m counts tiles): the features that each image token is a weighted sum of, in
    # place of ``image_slots``; -1 is the newline vector. int32 and float32 [b, n, 4], or None.
    tile_taps: Any = None
    tile_weights: Any = None


@struct.dataclass
class ContrastiveBatch:
    """Image-text pairs for stage 0 (SigLIP's sigmoid loss)."""

    images: Any  # uint8 [b, height, width, 3]
    tokens: Any  # int32 [b, n]; right padded with the pad id, last token is taken as the text feature
    weights: Any  # float32 [b]; 0 for a masked row
    row_index: Any  # int32 [b]


@struct.dataclass
class PromptBatch:
    """Prompts to answer; right padded."""

    images: Any  # uint8 [b, m, height, width, 3] or [b, m, p, patch*patch*3]
    tokens: Any  # int32 [b, n]
    image_slots: Any  # int32 [b, n]
    positions: Any  # int32 [b, n] or [b, n, 3]
    segments: Any  # int32 [b, n]; 1 at prompt tokens, 0 at padding
    row_index: Any  # int32 [b]
    patch_positions: Any = None  # int32 [b, m, p, 2], or None
    features: Any = None  # [b, m*p, d_vision], or None; see VLMBatch
    tile_taps: Any = None  # int32 [b, n, 4], or None; see VLMBatch
    tile_weights: Any = None  # float32 [b, n, 4], or None


Batch = VLMBatch | PromptBatch | ContrastiveBatch
