"""Sampling on meshes of eight devices."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from pivot_jax.errors import UserError
from pivot_jax.parallel.mesh import AXES, param_shardings
from pivot_jax.rollout import program
from pivot_jax.rollout.choice import draw_of, rule_of
from pivot_jax.rollout.engine import Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import mllm, rollouts

VOCAB, LENGTHS = 31, (6, 9, 70, 7, 12)
SHAPES = [(2, 2, 2), (8, 1, 1), pytest.param((1, 2, 4), marks=pytest.mark.heavy), (1, 1, 8)]
ANY = Sampling(10, temperature=0.6, stop_ids=(7, 8), banned_ids=(3,))


def mesh_of(shape):
    return Mesh(np.asarray(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.heavy_after(1)
def test_samples_of_a_mesh_equal_those_of_one_device(shape):
    """Rows and heads are split; 2 key/value heads over tensor 4 are not."""
    module, params = model = mllm.tiny_mllm(VOCAB, gain=2.0)
    prompts, made = rollouts.random_prompts(LENGTHS, VOCAB), rollouts.processor()
    mesh = mesh_of(shape)
    placed = jax.tree.map(jax.device_put, params, param_shardings(params, mesh))
    found = []
    for weights, where in ((params, None), (placed, mesh)):
        sampler = Sampler(module, made, Shape(slots=8, prompts=8, steps=4), mesh=where)
        sampler.update(weights, 0)
        found.append(sampler.generate(prompts, 8, ANY, (1, 2)))
    rollouts.assert_agree(model, made, prompts, *found, ANY, (1, 2))
    trained = rollouts.trained_logps(module, params, made, prompts, found[1].responses, ANY)
    for values, group in zip(trained, found[1].responses, strict=True):
        for logps, response in zip(values, group, strict=True):
            np.testing.assert_allclose(response.logps, logps, atol=1e-4)


def test_no_step_moves_the_cache_between_devices():
    """What a block gathers and exchanges are states, weights and logits, not keys and values."""
    module, params = mllm.tiny_mllm(VOCAB, gain=2.0)
    mesh = mesh_of((2, 2, 2))
    placed = jax.tree.map(jax.device_put, params, param_shardings(params, mesh))
    sampler = Sampler(module, rollouts.processor(), Shape(slots=8, prompts=8, steps=5), mesh=mesh)
    sampler.update(placed, 0)
    config, size = module.config, 128
    rows = program.Rows(
        np.ones(8, bool), *[np.zeros(8, np.int32) for _ in range(4)], *[np.zeros(8, np.uint32) for _ in range(2)]
    )
    with jax.set_mesh(mesh):
        cache, states = program.empty(config.decoder, config.dtype, 8, size)
        draw = draw_of(ANY, VOCAB, (0, 0))
        lowered = program.decode.lower(module, rule_of(ANY), 5, sampler.weights, cache, states, rows, draw)
    text = lowered.compile().as_text()
    assert "all-reduce(" in text
    assert not re.search(rf"f32\[[\d,]*\b({size}|5),4\]\S* (all-gather|all-to-all|collective-permute)\(", text)


def test_sizes_that_the_mesh_does_not_divide():
    module, _ = mllm.tiny_mllm(VOCAB)
    with pytest.raises(UserError, match="the sampler's number of slots is 6, not a multiple of .* = 4"):
        Sampler(module, None, Shape(slots=6, prompts=4), mesh=mesh_of((2, 2, 2)))
