"""Gradients of the SFT and the DPO loss in an encoder's parameters, layer by layer: how large, and whether they agree.

Both are taken at the same parameters, which are DPO's reference as well. There DPO's gradient is β/2 times that of
−(log p(chosen) − log p(rejected)) (Rafailov et al. 2023, section 4), so cosines are exact, and norms of that difference
are DPO's up to β/2. Letters: n pairs, l layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax import rules
from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.models import stacking
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.models.mllm import MLLM
from pivot_jax.train.open import LENGTH_STEP, OpenModel

WHOLE = "encoder"
PARTS = ("vision", "second")


@dataclass(frozen=True)
class EncoderGradients:
    """Norms and cosines of each pair's gradients.

    Attributes:
      layers: names of l layers in the order of the data flow, such as ``vision/blocks/0``; the last is ``encoder``, the
        whole.
      sft: norms of the gradient of −log p(chosen), float64 [n, l].
      dpo: of −(log p(chosen) − log p(rejected)) with one encoding of the image, float64 [n, l].
      cosine: between the two, float64 [n, l]; NaN where one of them is 0.
    """

    layers: tuple[str, ...]
    sft: np.ndarray
    dpo: np.ndarray
    cosine: np.ndarray

    def mean_cosines(self) -> dict[str, Interval]:
        """Mean over pairs with a bootstrap interval over pairs, per layer; layers without a cosine are left out."""
        kept = {name: column[~np.isnan(column)] for name, column in zip(self.layers, self.cosine.T, strict=True)}
        return {name: statistics.mean(values) for name, values in kept.items() if len(values)}


def encoder_gradients(run: OpenModel, examples: Sequence[Example]) -> EncoderGradients:
    """Gradients of preference pairs, one by one.

    Raises:
      UserError: no pairs, or a row without two different answers; RowError: a pair that cannot be encoded.
    """
    if not examples:
        raise UserError("no pairs to take gradients of")
    for example in examples:
        if example.rejected is None or not example.images or example.chosen == example.rejected:
            raise UserError(f"row '{example.id}': an image and two different answers are needed")
    processor, found = run.processor.for_kind("preference"), []
    for example in examples:
        batch = processor.batch_of([example], LENGTH_STEP)
        found.append(jax.device_get(_products(run.mllm, run.params, batch)))
    layers = tuple(sorted(found[0], key=_place))  # jit returns a dict's keys in the order of the alphabet
    sums = np.array([[one[name] for name in layers] for one in found], np.float64)  # [n, l, 3]
    sft, dpo = np.sqrt(sums[..., 0]), np.sqrt(sums[..., 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return EncoderGradients(layers, sft, dpo, sums[..., 2] / (sft * dpo))


def _place(layer: str) -> tuple[int, int, int, str]:
    """Sort key in the order of the data flow: encoders one by one, what is before the blocks, they, what is after."""
    if layer == WHOLE:
        return len(PARTS), 0, 0, ""
    part, name, *index = layer.split("/")
    stage = 1 if name == "blocks" else 2 if name == "norm" else 0
    return PARTS.index(part), stage, int(index[0]) if index else 0, name


@partial(jax.jit, static_argnums=0)
def _products(mllm: MLLM, params: dict[str, Any], batch: Any) -> dict[str, Any]:
    """Layer → (SFT · SFT, DPO · DPO, SFT · DPO), summed over the layer's parameters."""
    params = stacking.stacked(params)
    trained = {part: params[part] for part in PARTS if part in params}

    def logps(trained: Any) -> Any:
        return answer_logps(score(mllm, params | trained, batch), batch).sum(axis=(0, 1))

    _, pull = jax.vjp(logps, trained)
    (sft,), (dpo,) = (pull(jnp.array(weights)) for weights in ([-1.0, 0.0], [-1.0, 1.0]))
    found: dict[str, Any] = {}
    others = rules.flatten(dpo)
    for path, gradient in rules.flatten(sft).items():
        part, name = path.split("/")[:2]
        if name == "final":  # what the features do not need
            continue
        a, b = (g.reshape(len(g), -1) if name == "blocks" else g.reshape(1, -1) for g in (gradient, others[path]))
        own = jnp.stack([(x * y).sum(axis=1) for x, y in ((a, a), (b, b), (a, b))], axis=1)  # [layers, 3]
        names = [f"{part}/blocks/{i}" for i in range(len(a))] if name == "blocks" else [f"{part}/{name}"]
        for index, layer in enumerate(names):
            found[layer] = found.get(layer, 0) + own[index]
    return found | {WHOLE: sum(found.values())}
