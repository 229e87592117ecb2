"""Arithmetic of the models as pure functions of arrays, and the few modules that name their parameters.

Letters: b rows, n tokens, h heads, c head width, d width, f hidden. Norms are computed in float32 whatever the compute
dtype is.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.kernels import residuals
from pivot_jax.models import stacking

Array = jax.Array

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}


def linear(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """x [..., i] times kernel [i, o]. Leading axes are flattened first: one large matmul is faster on CPUs."""
    flat = x.reshape(-1, x.shape[-1])
    out = jnp.einsum("ti,io->to", flat, kernel.astype(x.dtype))
    if bias is not None:
        out = out + bias.astype(x.dtype)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Normalises the last axis in float32; result in x's dtype."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    var = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(var + eps) * scale + bias).astype(x.dtype)


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """Root-mean-square norm in float32, cast to x's dtype before the scale is applied, as in Qwen2."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale.astype(x.dtype)


def patchify(images: Array, patch: int) -> Array:
    """[b, H, W, 3] → [b, patches, patch*patch*3]; patches row by row, pixels in order row, column, channel."""
    b, height, width, channels = images.shape
    rows, cols = height // patch, width // patch
    grid = images.reshape(b, rows, patch, cols, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(b, rows * cols, patch * patch * channels)


def normalise(images: Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: Any) -> Array:
    """uint8 images → (x / 255 - mean) / std; floating-point images are taken as normalised already."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        scaled = images.astype(jnp.float32) / 255.0
        images = (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    return images.astype(dtype)


def resize_images(images: Array, size: int) -> Array:
    """Square images [b, H, H, 3] → [b, size, size, 3] of the same dtype: bicubic with antialiasing, as PIL's.

    PIL resizes rows first and rounds to integers between the two passes.
    """
    b, side = images.shape[:2]
    if side == size:
        return images
    resized = images.astype(jnp.float32)
    for shape in ((b, side, size, 3), (b, size, size, 3)):
        resized = jax.image.resize(resized, shape, "cubic", antialias=True)
        if jnp.issubdtype(images.dtype, jnp.integer):
            resized = jnp.clip(jnp.round(resized), 0, 255)
    return resized.astype(images.dtype)


def resample_grid(features: Array, grid: int, target: int) -> Array:
    """Features of a square grid [b, grid², d] → [b, target², d], bilinear between the centres of the positions."""
    if grid == target:
        return features
    b, _, d = features.shape
    square = features.reshape(b, grid, grid, d)
    return jax.image.resize(square, (b, target, target, d), "linear", antialias=False).reshape(b, target * target, d)


class Linear(nn.Module):
    """Parameters ``kernel`` [in, out] and, with ``use_bias``, ``bias`` [out]; an adapter's if any (``models.lora``)."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        out = linear(x, kernel, bias)
        if self.has_variable("params", "lora_a"):
            adapter: Any = [self.get_variable("params", f"lora_{name}") for name in ("a", "b", "scale")]
            a, b, scale = adapter
            out = out + linear(linear(x, a), b) * scale.astype(x.dtype)
        return out


class LayerNorm(nn.Module):
    """Parameters ``scale`` and ``bias`` [d]."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.eps)


class RMSNorm(nn.Module):
    """Parameter ``scale`` [d]."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)), self.eps)


class MLP(nn.Module):
    """fc2(activation(fc1(x)))."""

    hidden: int
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inner = ACTIVATIONS[self.activation](Linear(self.hidden, name="fc1")(x))
        return Linear(x.shape[-1], name="fc2")(inner)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    hidden: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate = Linear(self.hidden, self.use_bias, name="gate")(x)
        up = Linear(self.hidden, self.use_bias, name="up")(x)
        return Linear(x.shape[-1], self.use_bias, name="down")(jax.nn.silu(gate) * up)


@struct.dataclass
class Collect:
    """The outputs that a block returns per layer to the scan; static, so that nothing else is stored."""

    on: bool = struct.field(pytree_node=False, default=False)  # its output
    cache: bool = struct.field(pytree_node=False, default=False)  # a decoder's keys and values


COLLECT_NOTHING = Collect(False)

REMAT_POLICIES = {
    # Kept: matmul results and the residuals of attention's backward pass; everything cheap is recomputed.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(residuals.ATTENTION),
    ),
    # only layer inputs are kept
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nn.Module):
    """``block`` repeated ``length`` times. Its parameters are stacked on a leading axis, or have a leaf per layer.

    Attributes:
      block: its ``__call__(carry, *inputs)`` returns ``(carry, output)``; ``arguments`` are its constructor's.
      remat: "none", or a key of ``REMAT_POLICIES``.
      scan: one compiled layer in a loop, over stacked parameters. False unrolls: a larger program that takes longer to
        compile and stores no stacked residuals; it is faster on CPUs. Both create the same stacked parameters.
        Parameters with a leaf per layer (``models.stacking``) are never scanned.
      axes: for each of ``inputs``: 0 if it has a leading layer axis, ``nn.broadcast`` if all layers share it.
    """

    block: type[nn.Module]
    arguments: tuple[Any, ...]
    length: int
    remat: str
    scan: bool
    axes: tuple[Any, ...]

    @nn.compact
    def __call__(self, carry: Any, *inputs: Any) -> tuple[Any, Any]:
        if self.remat != "none" and self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat '{self.remat}' is unknown; there are: none, {', '.join(REMAT_POLICIES)}")
        scanned = self._scanned()
        nn.share_scope(self, scanned)  # no name of its own in the parameters' paths
        if self.is_initializing() or (self.scan and not stacking.has_layers(self.variables["params"])):
            return scanned(carry, *inputs)
        return self._unrolled(carry, inputs)

    def _scanned(self) -> nn.Module:
        block = self.block
        if self.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        over_layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=self.axes,
            length=self.length,
        )
        return over_layers(*self.arguments)

    def _unrolled(self, carry: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        module = self.block(*self.arguments, parent=None)

        def layer(params: Any, carry: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
            return module.apply({"params": params}, carry, *inputs)

        if self.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[self.remat])
        outputs = []
        tree = self.variables["params"]
        separate = stacking.has_layers(tree)
        trees = [stacking.layer(tree, i) for i in range(self.length)] if separate else _unstack(self.length, tree)
        for i, params in enumerate(trees):
            own = [
                jax.tree.map(lambda leaf, i=i: leaf[i], x) if axis == 0 else x
                for x, axis in zip(inputs, self.axes, strict=True)
            ]
            carry, output = layer(params, carry, tuple(own))
            outputs.append(output)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unstack(length: int, tree: Any) -> tuple[Any, ...]:
    """The layers of a stacked tree. Its gradient is one stack; that of indexing would be a sum of padded arrays."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(length))


def _unstack_fwd(length: int, tree: Any) -> tuple[tuple[Any, ...], None]:
    return _unstack(length, tree), None


def _unstack_bwd(length: int, _: None, gradients: tuple[Any, ...]) -> tuple[Any]:
    return (jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients),)


_unstack.defvjp(_unstack_fwd, _unstack_bwd)
