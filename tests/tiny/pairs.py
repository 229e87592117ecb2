"""Tiny random models and batches that tests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from pivot_jax.data.processing.batch import EncodedRow, VLMBatch
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig, init_params
from pivot_jax.models.vit import ViTConfig

VOCABULARY = 96
CONFIG = MLLMConfig(
    ViTConfig(image_size=16, patch_size=8, width=16, depth=3, heads=2, mlp_dim=32),
    ProjectorConfig(),
    DecoderConfig(vocab_size=VOCABULARY, width=32, depth=2, heads=4, kv_heads=2, mlp_dim=48, tied=False),
)


def config(**changes: Any) -> MLLMConfig:
    """CONFIG with ``remat`` and ``scan_layers`` of both towers, or ``dtype``, changed."""
    towers = {name: changes.pop(name) for name in ("remat", "scan_layers") if name in changes}
    return dataclasses.replace(
        CONFIG,
        vision=dataclasses.replace(CONFIG.vision, **towers),
        decoder=dataclasses.replace(CONFIG.decoder, **towers),
        **changes,
    )


@lru_cache
def params(seed: int = 0) -> dict[str, Any]:
    """Random host arrays with noise on what starts at zero or one, so that every gradient is alive."""
    tree = init_params(MLLM(CONFIG), jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + 0.05 * rng.normal(size=x.shape).astype(np.float32), tree)


def pairs(
    rows: int = 4,
    *,
    seed: int = 0,
    ref: bool = True,
    prompt_targets: bool = False,
    images_per_row: Sequence[int] = (1,),
) -> VLMBatch:
    """Random preference pairs: images of 4 tokens, a prompt, two answers of different lengths, padding.

    ``images_per_row``: numbers of images, which the rows have in turn.
    """
    rng = np.random.default_rng(seed)
    n, t = 20 + 4 * max(images_per_row), 12
    whole = {
        "tokens": np.zeros((rows, n), np.int32),
        "image_slots": np.full((rows, n), -1, np.int32),
        "positions": np.zeros((rows, n), np.int32),
        "segments": np.zeros((rows, n), np.int32),
        "branches": np.zeros((rows, n), np.int32),
        "sources": np.zeros((rows, t), np.int32),
        "targets": np.zeros((rows, t), np.int32),
        "weights": np.zeros((rows, t), np.float32),
        "target_branches": np.zeros((rows, t), np.int32),
        "target_rows": np.zeros((rows, t), np.int32),
    }
    for row in range(rows):
        one = pair_row(rng, prompt_targets, images_per_row[row % len(images_per_row)])
        for name, values in one.items():
            whole[name][row, : len(values)] = values
    images = rng.integers(0, 256, (rows, max(images_per_row), 16, 16, 3)).astype(np.uint8)
    ref_logps = None
    if ref:  # each answer's sum is drawn, then shared out evenly over its targets
        sums = rng.normal(-20, 3, (rows, 1, 2)).astype(np.float32)[:, 0]
        own = [whole["weights"] * (whole["target_branches"] == branch) for branch in (1, 2)]
        ref_logps = sum(sums[:, [i]] * one / one.sum(1, keepdims=True) for i, one in enumerate(own))
        ref_logps = np.asarray(ref_logps, np.float32)
    row_index = np.arange(rows, dtype=np.int32)[:, None]
    return VLMBatch(images=images, row_index=row_index, ref_logps=ref_logps, **whole)


def pair_row(rng: np.random.Generator, prompt_targets: bool, images: int = 1) -> dict[str, np.ndarray]:
    """One unpadded row: 2 text tokens, 4 tokens per image, 3 text tokens, then answers of 3..6 and 3..6 tokens."""
    prompt = 5 + 4 * images
    lengths = rng.integers(3, 7, 2)
    total = prompt + lengths.sum()
    tokens = rng.integers(1, VOCABULARY, total)
    starts = (prompt, prompt + lengths[0])
    sources = [np.r_[prompt - 1, start : start + size - 1] for start, size in zip(starts, lengths, strict=True)]
    indices = [np.arange(start, start + size) for start, size in zip(starts, lengths, strict=True)]
    branches = [np.full(size, i + 1) for i, size in enumerate(lengths)]
    if prompt_targets:  # as in the paper's label mask, before the answer
        sources, indices, branches = [[0], *sources], [[1], *indices], [[0], *branches]
    indices = np.concatenate(indices)
    slots = np.full(total, -1)
    slots[2 : prompt - 3] = np.arange(4 * images)
    return {
        "tokens": tokens,
        "image_slots": slots,
        "positions": np.concatenate([np.arange(prompt), *(prompt + np.arange(size) for size in lengths)]),
        "segments": np.ones(total),
        "branches": np.concatenate([np.zeros(prompt), np.ones(lengths[0]), np.full(lengths[1], 2)]),
        "sources": np.concatenate(sources),
        "targets": tokens[indices],
        "weights": np.ones(len(indices)),
        "target_branches": np.concatenate(branches),
    }


def single(batch: VLMBatch, branch: int) -> VLMBatch:
    """The plain sequences image, prompt, one answer, extracted from shared-prompt pairs: the rows of other trainers."""
    out = jax.tree.map(np.copy, batch).replace(ref_logps=None)
    other = (out.branches != 0) & (out.branches != branch)
    order = np.argsort(other, axis=1, kind="stable")  # the other answer moves after this one and becomes padding
    where = np.argsort(order, axis=1, kind="stable")
    rows = np.arange(len(out.tokens))[:, None]
    moved = {name: getattr(out, name)[rows, order] for name in ("tokens", "image_slots", "positions", "segments")}
    hidden = other[rows, order]
    moved["segments"] = np.where(hidden, 0, moved["segments"])
    keep = (out.target_branches == branch) | (out.target_branches == 0)
    return out.replace(
        **moved,
        branches=np.zeros_like(out.branches),
        sources=np.where(keep, where[rows, out.sources], 0).astype(np.int32),
        weights=out.weights * keep,
        target_branches=np.where(keep, 1, 0).astype(np.int32),
    )


def masked(batch: VLMBatch, rows: Sequence[int]) -> VLMBatch:
    """The unpacked batch with these rows masked, as the loader leaves them."""
    out = jax.tree.map(np.copy, batch)
    for values in (out.segments, out.weights, out.images):
        values[list(rows)] = 0
    out.image_slots[list(rows)] = out.row_index[list(rows)] = -1
    if out.ref_logps is not None:
        out.ref_logps[list(rows)] = 0
    return out


def packed(batch: VLMBatch, pack: int) -> VLMBatch:
    """The rows of an unpacked batch, each ``pack`` consecutive ones in one sequence."""
    per_token = ("tokens", "image_slots", "positions", "branches")
    per_target = ("sources", "targets", "target_branches")
    rows: list[EncodedRow | None] = []
    for row, index in enumerate(batch.row_index[:, 0]):
        n, t = int(np.sum(batch.segments[row] > 0)), int(np.sum(batch.weights[row]))
        fields = {name: getattr(batch, name)[row, :n] for name in per_token}
        fields |= {name: getattr(batch, name)[row, :t] for name in per_target}
        rows.append(EncodedRow(str(row), **fields) if index >= 0 else None)
    sizes = [np.sum(batch.segments > 0, 1), np.sum(batch.weights, 1)]
    bucket = tuple(int(np.max(np.sum(x.reshape(-1, pack), 1))) + 3 for x in sizes)
    values = {}
    if batch.ref_logps is not None:
        sizes = np.sum(batch.weights, 1).astype(int)
        values["ref_logps"] = [None if row is None else batch.ref_logps[i, : sizes[i]] for i, row in enumerate(rows)]
    images, index = ImageArrays(batch.images), batch.row_index[:, 0]
    return vlm_batch(rows, images, index, bucket, Collation(0, 4), packing=pack, target_values=values)


def targets_only(lengths: np.ndarray) -> VLMBatch:
    """A batch of scored targets without a model: row i has ``lengths[i, j]`` targets in branch j + 1, in order.

    For losses of given log-probs, whose ``logps`` [b, t] are laid out the same way; :func:`laid_out` does that.
    """
    b, width = len(lengths), int(lengths.sum(1).max())
    branches, weights = np.zeros((b, width), np.int32), np.zeros((b, width), np.float32)
    for row, sizes in enumerate(lengths):
        branches[row, : sizes.sum()] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        weights[row, : sizes.sum()] = 1
    nothing = np.zeros((b, width), np.int32)
    return VLMBatch(
        images=None, tokens=nothing, image_slots=nothing, positions=nothing, segments=nothing, branches=nothing,
        sources=nothing, targets=nothing, weights=weights, target_branches=branches, target_rows=nothing,
        row_index=np.arange(b, dtype=np.int32)[:, None],
    )  # fmt: skip


def laid_out(batch: VLMBatch, *answers: np.ndarray) -> np.ndarray:
    """Values of the answers' tokens, [b, longest] each and right padded, in the layout of the batch: [b, t]."""
    out = np.zeros(batch.weights.shape, np.float32)
    for branch, values in enumerate(answers, 1):
        for row, own in enumerate(batch.target_branches == branch):
            out[row, own] = values[row, : own.sum()]
    return out
