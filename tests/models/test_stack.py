"""Layers stacked by a scan and unrolled give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.models.flops import traced_flops
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM, init_params
from tests.tiny import pairs


def value_and_gradients(mllm: MLLM):
    batch = pairs.pairs(2)

    def loss(params):
        return jnp.sum(score(mllm, params, batch).logps * batch.weights)

    return jax.jit(jax.value_and_grad(loss))(pairs.params())


@pytest.fixture(scope="module")
def scanned():
    return value_and_gradients(MLLM(pairs.config()))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.heavy_after(1)
def test_unrolled_layers_give_the_scans_loss_and_gradients(scanned, remat):
    found = value_and_gradients(MLLM(pairs.config(scan_layers=False, remat=remat)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, scanned)


def flops_of_gradients(remat: str, scan_layers: bool) -> float:
    """FLOPs of the tiny model's gradients as traced, recomputation included."""
    batch = pairs.pairs(4)
    mllm = MLLM(pairs.config(remat=remat, scan_layers=scan_layers))
    loss = lambda params: jnp.sum(score(mllm, params, batch).logps * batch.weights)  # noqa: E731
    return traced_flops(jax.make_jaxpr(jax.grad(loss))(pairs.params()))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_dots_recomputes_no_product(scan_layers):
    """Neither the matmuls nor attention."""
    none, dots, full = (flops_of_gradients(remat, scan_layers) for remat in ("none", "dots", "full"))
    assert none == dots < full


def test_unrolled_layers_have_no_loop_and_the_same_parameters():
    mllm = MLLM(pairs.config(scan_layers=False))
    models = mllm, MLLM(pairs.CONFIG)
    shapes = [jax.eval_shape(lambda key, model=model: init_params(model, key), jax.random.key(0)) for model in models]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    images = np.zeros((1, 1, 16, 16, 3), np.uint8)

    def program(model: MLLM) -> str:
        encode = lambda params: model.apply({"params": params}, images, method="encode_images")  # noqa: E731
        return str(jax.make_jaxpr(encode)(pairs.params()))

    assert "scan" in program(MLLM(pairs.CONFIG)) and "scan" not in program(mllm)


@pytest.mark.heavy
def test_intermediates_of_unrolled_layers():
    batch = pairs.pairs(2)
    found = []
    for mllm in (MLLM(pairs.CONFIG), MLLM(pairs.config(scan_layers=False))):
        bound = mllm.bind({"params": pairs.params()})
        _, taps = bound.encode_images_with_taps(batch.images, ("embed", "blocks/1"))
        found.append((taps, bound.layer_means(batch)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)


def test_an_unknown_remat_policy_is_an_error():
    with pytest.raises(ValueError, match="remat 'some' is unknown; there are: none, dots, full"):
        value_and_gradients(MLLM(pairs.config(remat="some")))
