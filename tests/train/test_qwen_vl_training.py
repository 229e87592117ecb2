"""A tiny Qwen2.5-VL: pairs that share image and prompt; variable-resolution images; parts that do not fit."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.train.model import build_model, processor_of
from pivot_jax.train.open import open_run
from pivot_jax.train.run import run
from tests.tiny import pairs
from tests.train.conftest import QWEN, losses


@pytest.mark.heavy
def test_a_pair_in_one_row_equals_two_sequences(qwen_sources, make_config, world):
    """Log-probs and gradients of a pair in one row, with M-RoPE and images of several sizes."""
    config = make_config(**QWEN, objective__name="dpo", data__sources=(qwen_sources["pairs"],), data__batch_size=4)
    tokenizer = load_tokenizer(world / "tokenizer")
    model = build_model(config, len(tokenizer))
    loader = build_loader(config, processor_of(config, model.module, tokenizer, "preference"))
    batch = loader.batch_at(0)
    assert batch.positions.shape == (*batch.tokens.shape, 3) and batch.patch_positions.shape[1:] == (2, 48, 2)
    assert len({int((places[..., 0] >= 0).sum()) for places in batch.patch_positions.reshape(-1, 48, 2)}) > 2
    params = model.create(jax.random.key(0))

    @jax.jit
    def shared(params, batch):
        logps = lambda params: answer_logps(score(model.module, params, batch), batch)[:, 0]  # noqa: E731
        return logps(params), jax.grad(lambda p: (logps(p) * np.asarray([1.0, -1.0])).sum())(params)

    @jax.jit
    def apart(params, batches):
        def logps(params):
            both = [score(model.module, params, batch).logps * batch.weights for batch in batches]
            return jax.numpy.stack([logps.sum(1) for logps in both], axis=1)

        return logps(params), jax.grad(lambda p: (logps(p) * np.asarray([1.0, -1.0])).sum())(params)

    together, gradient = shared(params, batch)
    separate, other = apart(params, [pairs.single(batch, branch) for branch in (1, 2)])
    np.testing.assert_allclose(together, separate, atol=2e-5)
    flat = rules.flatten(other)
    for path, leaf in rules.flatten(gradient).items():
        np.testing.assert_allclose(leaf, flat[path], atol=2e-5 * (1 + float(np.abs(leaf).max())), err_msg=path)
        assert np.abs(leaf).max() > 0, path


@pytest.mark.heavy
def test_naflex_trains_on_variable_resolution_images(qwen_sources, make_config, tmp_path):
    """SigLIP2 NaFlex goes through the same pipeline: no merging, one position per token."""
    changes = QWEN | dict(
        model__vision__family="siglip2_naflex", model__vision__activation="gelu_tanh", model__decoder__mrope_section=(),
        data__image__preset="siglip2_naflex", data__image__max_patches=24, data__sources=(qwen_sources["chats"],),
    )  # fmt: skip
    run(make_config(**changes, train__steps=3), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == 3 and np.isfinite(found).all()
    assert open_run(tmp_path / "run").processor.geometry.features == 24


def test_parts_that_do_not_fit_are_rejected(make_config, qwen_sources):
    fitting = QWEN | dict(data__sources=(qwen_sources["chats"],))
    for changes, match in (
        (dict(data__image__preset="siglip"), "data.image.preset: 'siglip' is not how"),
        (dict(model__vision__family="siglip"), "data.image.preset: 'qwen2_5_vl' is not how"),
        (dict(model__projector__reuse=1), "model.projector.reuse"),
        (dict(model__vision__window=10), "window of 10 pixels"),
        (dict(objective__name="contrastive", data__images_per_row=1), "stage 0 trains one ViT"),
    ):
        with pytest.raises(UserError, match=match):
            build_model(make_config(**fitting | changes), 300)
    with pytest.raises(UserError, match="data.image.min_pixels"):
        make_config(**fitting | dict(data__image__min_pixels=1000))
