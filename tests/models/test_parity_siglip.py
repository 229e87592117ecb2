"""Parity of SigLIP's vision tower with transformers, live."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.models.vit import ViT
from pivot_jax.train.model import build_model
from tests.parity import compare
from tests.tiny import hf

SHAPES = {
    "plain": {},
    "odd grid, image not a multiple of the patch": dict(
        image_size=37, patch_size=7, hidden_size=20, num_attention_heads=5
    ),
    "two layers, exact gelu": dict(num_hidden_layers=2, hidden_act="gelu", intermediate_size=17),
    "no head": dict(vision_use_head=False, num_hidden_layers=4),
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_hidden_states_and_pooled_output_equal_transformers(tmp_path, changes):
    model = hf.vision_model(**changes)
    model.save_pretrained(tmp_path)
    cfg = hub.read_config(tmp_path).vision
    params = hub.load_params(tmp_path)
    size = cfg.image_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images).permute(0, 3, 1, 2), output_hidden_states=True)
    vit = ViT(cfg)

    @jax.jit
    def ours(params, images):
        variables = {"params": params["vision"]}
        out = [vit.apply(variables, images, method=name) for name in ("features", "last_hidden")]
        return [*out, vit.apply(variables, images, method="pooled")] if cfg.pool_head else out

    features, last, *pooled = ours(params, images)
    kind, name = "siglip_vision_model", next(name for name, shape in SHAPES.items() if shape == changes)
    compare(kind, name, "features = hidden_states[-2]", features, theirs.hidden_states[-2])
    compare(kind, name, "hidden_states[-1]", last, theirs.hidden_states[-1])
    if cfg.pool_head:
        compare(kind, name, "pooler_output", pooled[0], theirs.pooler_output)


def test_features_need_and_train_all_blocks_but_the_last(tmp_path):
    hf.vision_model(num_hidden_layers=4).save_pretrained(tmp_path)
    cfg = hub.read_config(tmp_path).vision
    params = hub.load_params(tmp_path)["vision"]
    vit = ViT(cfg)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 24, 24, 3)), jnp.float32)

    def loss(params):
        return jnp.sum(vit.apply({"params": params}, images, method="features") ** 2)

    grads = jax.jit(jax.grad(loss))(params)
    assert params["blocks"]["ln1"]["scale"].shape[0] == 3
    trained = grads["blocks"]["mlp"]["fc1"]["kernel"]
    assert bool(jnp.all(jnp.max(jnp.abs(trained), axis=(1, 2)) > 0)), "a block in the stack gets no gradient"
    assert all(not np.any(np.asarray(g)) for g in jax.tree.leaves(grads["final"]))
    assert {"block", "norm", "pool"} <= set(grads["final"]), "nothing to be without a gradient"
    without = {key: value for key, value in params.items() if key != "final"}
    np.testing.assert_array_equal(jax.jit(loss)(without), jax.jit(loss)(params))


def test_so400m_computes_26_of_27_blocks_and_gives_576_tokens():
    """The sizes of the paper's model, from its shapes; its projector too."""
    config = configs.load("configs/pivot/stage1a.py")
    model = build_model(config, 151665)
    params = jax.eval_shape(model.create, jax.random.key(0))
    assert params["vision"]["blocks"]["ln1"]["scale"].shape == (26, 1152)
    assert params["vision"]["final"]["block"]["ln1"]["scale"].shape == (1152,)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["projector"])) == 4_131_840
    images = jax.ShapeDtypeStruct((1, 1, 384, 384, 3), jnp.uint8)
    encode = partial(model.module.apply, method="encode_images")
    assert jax.eval_shape(encode, {"params": params}, images).shape == (1, 576, 1152)
