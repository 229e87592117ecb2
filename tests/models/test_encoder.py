"""An encoder alone has the parameters and the numbers that its parts have in a whole model."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.models.convnext import ConvNeXtConfig
from pivot_jax.models.encoder import Encoder, EncoderConfig
from pivot_jax.models.mllm import MLLM, init_params
from pivot_jax.models.projector import ProjectorConfig
from pivot_jax.models.qwen_vision import QwenVisionConfig
from tests.tiny import pairs

QWEN = QwenVisionConfig(4, 16, 2, 2, 24, window=16, full_blocks=(1,), max_patches=16)
MODELS = {
    "one encoder": pairs.CONFIG,
    "two encoders": dataclasses.replace(pairs.CONFIG, second=ConvNeXtConfig(16, (4, 8), (1, 1), patch_size=2)),
    "Qwen2.5-VL's, with its merger": dataclasses.replace(pairs.CONFIG, vision=QWEN),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@pytest.mark.heavy_after(1)
def test_an_encoder_is_the_model_without_its_decoder(config):
    """Initial parameters by seed, features and image tokens are bit-equal."""
    mllm, encoder = MLLM(config), Encoder(config.encoder)
    params = init_params(mllm, jax.random.key(5))
    own = encoder.init(jax.random.key(5), *config.vision.example_input(), method="whole")["params"]
    assert own.keys() == params.keys() - {"decoder"}
    for path, leaf in rules.flatten(own).items():
        np.testing.assert_array_equal(leaf, rules.flatten(params)[path], err_msg=path)
    inputs = config.vision.example_input()
    if config.vision.traits.patch_input:
        grid = np.stack(np.divmod(np.arange(4), 2), axis=1).astype(np.int32)[None]
        inputs = (inputs[0] + np.linspace(-1, 1, inputs[0].size, dtype=np.float32).reshape(inputs[0].shape), grid)
    inputs = tuple(jnp.asarray(x)[None] for x in inputs)

    def outputs(module, params):
        features = module.apply({"params": params}, *inputs, method="encode_images")
        return features, module.apply({"params": params}, features, method="project")

    for ours, whole in zip(
        jax.jit(lambda p: outputs(encoder, p))(own), jax.jit(lambda p: outputs(mllm, p))(params), strict=True
    ):
        np.testing.assert_array_equal(ours, whole)


def test_an_encoder_without_a_projector_has_features_only():
    encoder = Encoder(EncoderConfig(pairs.CONFIG.vision))
    shapes = jax.eval_shape(
        lambda key: encoder.init(key, *pairs.CONFIG.vision.example_input(), method="whole"), jax.random.key(0)
    )
    assert shapes["params"].keys() == {"vision"}


def test_parts_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="two encoders read the same square image; a family with patch input"):
        EncoderConfig(QWEN, second=pairs.CONFIG.vision)
    with pytest.raises(ValueError, match="a projector needs the width of the decoder's tokens; it is 0"):
        EncoderConfig(pairs.CONFIG.vision, projector=ProjectorConfig())
