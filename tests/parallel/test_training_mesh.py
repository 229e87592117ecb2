"""Equal loss, gradients and parameters on every mesh, with accumulation and remat."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.models import stacking
from pivot_jax.models.mllm import MLLM, init_params
from pivot_jax.objectives.table import build_objective
from pivot_jax.parallel.mesh import check_rows, fit, make_mesh, param_shardings, place_batch
from pivot_jax.train.model import build_model
from pivot_jax.train.setup import assemble
from tests.tiny import pairs

MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2)]
STEPS = 3


def run_config(mesh=(1, 1, 1), accumulate=1, remat="none", dtype="float32", scan_layers=True):
    """DPO with γ on the tiny model, which has both kinds of denominator."""
    config = configs.base()
    own = {"remat": remat, "scan_layers": scan_layers}
    tower = {"width": 16, "depth": 3, "heads": 2, "mlp_dim": 32, **own}
    decoder = {"vocab_size": pairs.VOCABULARY, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48}
    content = {
        "model": {
            "dtype": dtype,
            "vision": {"image_size": 16, "patch_size": 8, **tower},
            "decoder": {**decoder, "tied": False, **own},
        },
        "data": {"image": {"size": 16}, "batch_size": 32},
        "objective": {"name": "dpo", "terms": (("sigmoid", 1.0), ("sft", 0.3))},
        # Some gradients are zero except for rounding (key biases). With its usual eps Adam would amplify that rounding
        # to whole steps, and the comparison would be one of noise.
        "optimizer": {"rules": ((".*", 1e-3),), "warmup_ratio": 0.0, "eps": 1e-5},
        "parallel": dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)),
        "train": {"accumulate": accumulate},
    }
    configs.merge(config, content)
    return config


def train(pack=1, **changes):
    """(losses, gradient norms, first moments, parameters) after three steps of 32 pairs, ``pack`` per sequence."""
    config = run_config(**changes)
    devices = jax.devices()[: int(np.prod([config.parallel[a] for a in ("data", "fsdp", "tensor")]))]
    mesh = make_mesh(config.parallel, devices)
    model = build_model(config, pairs.VOCABULARY)
    setup = assemble(config, mesh, SimpleNamespace(total_steps=STEPS), model, build_objective(model.module, config))
    losses, norms = [], []
    with jax.set_mesh(mesh):
        state = setup.fresh_state(jax.tree.map(jax.device_put, pairs.params(), setup.shardings))
        step = setup.compiled_step()
        for seed in range(STEPS):
            state, metrics = step(state, place_batch(pairs.packed(pairs.pairs(32, seed=seed), pack), mesh), None)
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
    host = jax.tree.map(np.asarray, stacking.on_host((state.trained, state.opt_state[0].mu)))
    return losses, norms, *(rules.flatten(tree) for tree in host)


@pytest.fixture(scope="module")
def alone():
    """One device, one batch, nothing recomputed."""
    return train()


def check(alone, other):
    np.testing.assert_allclose(other[0], alone[0], rtol=1e-5)
    np.testing.assert_allclose(other[1], alone[1], rtol=1e-5)
    for mine, theirs in zip(other[2:], alone[2:], strict=True):
        for path, value in mine.items():
            np.testing.assert_allclose(value, theirs[path], atol=1e-5, err_msg=path)


# Every mesh, some with accumulation and remat; all combinations run as a heavy test.
CHOSEN = [(mesh, 4 if i % 2 else 1, "full" if i % 2 else "none") for i, mesh in enumerate(MESHES)][1:]
CHOSEN += [((1, 1, 1), 4, "none"), ((1, 1, 1), 1, "full")]
ALL = [*itertools.product(MESHES, (1, 4), ("none", "full")), ((1, 1, 1), 1, "dots"), ((2, 2, 2), 4, "dots")]


@pytest.mark.parametrize(("mesh", "accumulate", "remat"), CHOSEN)
@pytest.mark.heavy_after(2)
def test_mesh_accumulation_and_remat_do_not_change_training(alone, mesh, accumulate, remat):
    check(alone, train(mesh=mesh, accumulate=accumulate, remat=remat))


@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 4, 2), pytest.param((2, 2, 2), marks=pytest.mark.heavy)])
@pytest.mark.heavy
def test_a_leaf_per_layer_does_not_change_training_on_any_mesh(alone, mesh):
    check(alone, train(mesh=mesh, accumulate=2, scan_layers=False))


@pytest.mark.parametrize(("mesh", "accumulate"), [((1, 1, 1), 1), pytest.param((2, 2, 2), 2, marks=pytest.mark.heavy)])
@pytest.mark.heavy
def test_packing_does_not_change_training_on_any_mesh(alone, mesh, accumulate):
    check(alone, train(pack=4, mesh=mesh, accumulate=accumulate))


@pytest.mark.heavy
@pytest.mark.parametrize(("mesh", "accumulate", "remat"), [x for x in ALL if x not in CHOSEN])
def test_every_combination_of_mesh_accumulation_and_remat(alone, mesh, accumulate, remat):
    check(alone, train(mesh=mesh, accumulate=accumulate, remat=remat))


@pytest.mark.heavy
def test_bfloat16_loss_is_within_2e_2(alone):
    losses, *_ = train(dtype="bfloat16")
    np.testing.assert_allclose(losses, alone[0], rtol=2e-2)


def test_parameters_are_split():
    config = run_config((1, 4, 2))
    mesh = make_mesh(config.parallel)
    shardings = rules.flatten(param_shardings(pairs.params(), mesh))
    assert shardings["decoder/embed"].spec == P("tensor", "fsdp")
    assert shardings["decoder/blocks/attn/q/kernel"].spec == P(None, "fsdp", "tensor")
    assert shardings["vision/final/block/mlp/fc1/kernel"].spec == P("fsdp", "tensor")
    placed = jax.device_put(pairs.params()["decoder"]["embed"], shardings["decoder/embed"])
    assert placed.addressable_shards[0].data.shape == (48, 8)


def test_parameters_of_other_encoders_are_split_too():
    """A SwiGLU's three matrices and two biases; a pooler."""
    mesh = make_mesh(run_config((1, 4, 2)).parallel)
    for traits, expected in (
        (
            dict(family="dinov2", gated=True, registers=2),
            {
                "blocks/mlp/gate/kernel": P(None, "fsdp", "tensor"),
                "blocks/mlp/up/bias": P(None, "tensor"),
                "blocks/mlp/down/kernel": P(None, "tensor", "fsdp"),
                "blocks/layer_scale1": P(None, None),
                "register_tokens": P(None, None),
            },
        ),
        (dict(family="vit"), {"final/pooler/kernel": P(None, "fsdp"), "norm/scale": P(None)}),
    ):
        vision = dataclasses.replace(pairs.CONFIG.vision, **traits)
        like = jax.eval_shape(
            lambda v=vision: init_params(MLLM(dataclasses.replace(pairs.CONFIG, vision=v)), jax.random.key(0))
        )
        shardings = rules.flatten(param_shardings(like, mesh)["vision"])
        assert {path: shardings[path].spec for path in expected} == expected


def test_a_dimension_that_an_axis_does_not_divide_is_not_split():
    mesh = make_mesh(run_config((1, 4, 2)).parallel)
    assert fit(P("fsdp", "tensor"), (6, 4), mesh) == P(None, "tensor")


def test_bad_meshes_raise_an_error():
    with pytest.raises(UserError, match="their product is not 8, the number of devices"):
        make_mesh({"data": 3, "fsdp": 1, "tensor": 1})
    mesh = make_mesh({"data": -1, "fsdp": 2, "tensor": 1})
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    with pytest.raises(UserError, match=r"data.batch_size is 12, not a multiple of .* = 8"):
        check_rows(12, "data.batch_size", mesh)
