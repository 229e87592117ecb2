"""Maps and encoder gradients of the SFT and the DPO loss at equal parameters, against losses written out here."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.patches import Patches
from pivot_jax.data.processing.tiles import Tiles
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import UserError
from pivot_jax.models import stacking
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig
from pivot_jax.models.vit import ViTConfig
from pivot_jax.probe import gradient_maps
from pivot_jax.probe.encoder_gradients import encoder_gradients
from pivot_jax.probe.gradient_maps import MapSettings, answer_maps, normalised, question_map
from pivot_jax.probe.localisation import object_mask, patch_cover
from tests.tiny import mllm as tiny
from tests.tiny import processing

BETA = 0.1
QUESTION = (Message("user", "<image>\nWhat is it?"),)
IMAGES = np.random.default_rng(5).integers(0, 255, (2, 24, 24, 3), dtype=np.uint8)
PAIRS = [
    Example("a", QUESTION, (IMAGES[0],), "a red circle", "a blue square"),
    Example("b", QUESTION, (IMAGES[1],), "seven", "a red triangle on the left"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """36 patches; a processor of the paper's label mask, in which parts of the prompt are targets too."""
    words = ["What is it? a red circle a blue square seven triangle on the left"]
    tokenizer = load_tokenizer(train_bpe(words, 280, tmp_path_factory.mktemp("bpe")))
    vision = ViTConfig(image_size=24, patch_size=4, width=16, depth=3, heads=2, mlp_dim=32, pool_head=False)
    decoder = DecoderConfig(vocab_size=len(tokenizer), width=32, depth=2, heads=4, kv_heads=2, mlp_dim=48)
    mllm = MLLM(MLLMConfig(vision, ProjectorConfig(), decoder))
    processor = processing.processor(tokenizer, 36, size=24, kind="preference", loss_mask="pivot", max_targets=64)
    return SimpleNamespace(name="tiny", mllm=mllm, params=tiny.random_params(mllm, gain=1.5), processor=processor)


def logps(model, params, batch, features=None):
    """log p of the targets of each row, [b]."""
    return (score(model.mllm, params, batch, features).logps * batch.weights).sum(axis=1)


def paper_dpo_map(model, pair, margin):
    """As the paper's code: chosen and rejected are two rows with the image in each, and the map is that of row 0.

    Args:
      margin: log p(chosen) - log p(rejected) of the reference.
    """
    answers = [Example(pair.id, (*pair.messages, Message("assistant", text)), pair.images)
               for text in (pair.chosen, pair.rejected)]  # fmt: skip
    batch = model.processor.for_kind("sft").batch_of(answers)

    def loss(features):
        chosen, rejected = logps(model, model.params, batch, features)
        return -jax.nn.log_sigmoid(BETA * (chosen - rejected - margin))

    features = model.mllm.apply({"params": model.params}, batch.images, method="encode_images")
    return np.abs(np.asarray(jax.jit(jax.grad(loss))(features)))[0].sum(-1).reshape(6, 6)


def maps(model, pair, preference=True, **settings):
    kind = model.processor.for_kind("preference" if preference else "sft")
    row = pair if preference else Example(pair.id, (*pair.messages, Message("assistant", pair.chosen)), pair.images)
    found = answer_maps(
        model.mllm, model.params, kind.batch_of([row]), preference=preference, settings=MapSettings(**settings)
    )
    return found[..., 0, :, :]


@pytest.mark.parametrize("margin", [0.0, -40.0])
@pytest.mark.heavy_after(1)
def test_the_published_dpo_map_is_the_sft_map_and_the_shared_encoding_is_not(model, margin):
    pair = PAIRS[0]
    published, sft = paper_dpo_map(model, pair, margin), maps(model, pair, preference=False)
    np.testing.assert_allclose(normalised(published, gamma=1), normalised(sft, gamma=1), atol=1e-5)
    ours = maps(model, pair, encoding="separate")
    np.testing.assert_allclose(normalised(ours, gamma=1), normalised(published, gamma=1), atol=1e-5)
    shared = maps(model, pair)
    assert np.abs(normalised(shared, gamma=1) - normalised(sft, gamma=1)).max() > 0.1


@pytest.mark.heavy
def test_it_holds_at_every_layer_and_the_last_block_gives_the_features(model):
    sft = maps(model, PAIRS[1], preference=False, layer="all")
    separate, shared = (maps(model, PAIRS[1], encoding=name, layer="all") for name in ("separate", "shared"))
    assert sft.shape == (2, 6, 6)
    np.testing.assert_allclose(separate, sft, rtol=1e-4, atol=1e-5 * sft.max())
    for layer in range(2):
        assert np.abs(normalised(shared[layer], gamma=1) - normalised(sft[layer], gamma=1)).max() > 0.1
    np.testing.assert_allclose(maps(model, PAIRS[1], layer=0), shared[0], rtol=1e-5)
    features = maps(model, PAIRS[1])
    np.testing.assert_allclose(shared[-1], features, rtol=1e-4, atol=1e-5 * features.max())
    assert not np.allclose(shared[0], shared[1], rtol=0.1)


def test_the_shared_map_is_the_gradient_of_the_real_dpo_loss(model):
    """-log sigmoid(beta (margin - reference margin)) of the pair as one row, up to one factor."""
    batch = model.processor.batch_of(PAIRS[:1])
    own = [batch.weights * np.isin(batch.target_branches, (0, branch)) for branch in (1, 2)]

    def loss(features):
        stats = score(model.mllm, model.params, batch, features).logps
        chosen, rejected = ((stats * weights).sum() for weights in own)
        return -jax.nn.log_sigmoid(BETA * (chosen - rejected + 3))

    features = model.mllm.apply({"params": model.params}, batch.images, method="encode_images")
    real = np.abs(np.asarray(jax.jit(jax.grad(loss))(features)))[0].sum(-1).reshape(6, 6)
    np.testing.assert_allclose(normalised(maps(model, PAIRS[0])), normalised(real), atol=1e-5)


def test_questions_of_a_similar_length_share_a_program(model):
    """A map of many questions in a loop compiles once; the padding that this takes changes no map."""
    run = SimpleNamespace(**vars(model), geometry=Square("siglip", 24, 36))
    gradient_maps._derivatives.clear_cache()
    shown, grid = question_map(run, IMAGES[0], "What is it?", PAIRS[0].chosen)
    other = question_map(run, IMAGES[1], "it?", PAIRS[1].rejected)[1]
    assert gradient_maps._derivatives._cache_size() == 1 and not np.allclose(grid, other, rtol=0.1)
    np.testing.assert_array_equal(shown, IMAGES[0])
    np.testing.assert_allclose(grid, maps(model, PAIRS[0], preference=False), rtol=1e-4)


def test_grad_cam_and_rollout_need_what_they_say(model):
    cam = maps(model, PAIRS[0], method="gradcam")
    assert cam.shape == (6, 6) and (cam >= 0).all() and cam.max() > 0
    assert not np.allclose(cam, maps(model, PAIRS[1], method="gradcam"))
    rolled = maps(model, PAIRS[0], method="rollout", layer="all")
    np.testing.assert_allclose(rolled.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(maps(model, PAIRS[0], method="rollout"), rolled[-1])
    np.testing.assert_array_equal(maps(model, PAIRS[0], preference=False, method="rollout"), rolled[-1])


@pytest.mark.heavy
def test_variable_resolution_images_have_a_grid_of_their_own(model):
    """A tall image of SigLIP2 NaFlex: every method at a block, and padding holds nothing of the map."""
    geometry = Patches("siglip2_naflex", 4, 31, 0, 0)
    vision = dataclasses.replace(model.mllm.config.vision, family="siglip2_naflex", max_patches=31)
    mllm = MLLM(dataclasses.replace(model.mllm.config, vision=vision))
    tokenizer = model.processor.chat.tokenizer
    run = SimpleNamespace(name="tiny", mllm=mllm, params=model.params, geometry=geometry,
                          processor=processing.processor(tokenizer, geometry=geometry))  # fmt: skip
    tall = np.random.default_rng(6).integers(0, 255, (60, 30, 3), dtype=np.uint8)
    rows, columns = geometry.grid(60, 30)
    assert rows > columns and rows * columns < 31
    for settings in (MapSettings(), MapSettings("gradcam", 0), MapSettings("rollout"), MapSettings(layer=1)):
        shown, grid = question_map(run, tall, "What is it?", "seven", settings=settings)
        assert shown.shape == (4 * rows, 4 * columns, 3) and grid.shape == (rows, columns) and grid.max() > 0
    np.testing.assert_allclose(grid, question_map(run, tall, "What is it?", "seven")[1], rtol=1e-4)
    assert question_map(run, tall, "", "seven", settings=MapSettings("rollout"))[1].sum() == pytest.approx(1)
    mask = np.zeros((60, 30, 3), np.uint8)
    mask[:30] = 255
    cover = patch_cover(object_mask(geometry, tall, mask=mask), (rows, columns))
    np.testing.assert_allclose(cover.mean(), 0.5, atol=0.1)


def test_encoders_without_one_grid_are_an_error(model):
    run = SimpleNamespace(name="tiny", mllm=model.mllm, geometry=Tiles("siglip", 24, 6, 4))
    with pytest.raises(UserError, match="tiny reads tiles; a gradient map needs an image as one grid of patches"):
        question_map(run, IMAGES[0], "What is it?", "seven")


@pytest.mark.heavy
def test_encoder_gradients_by_layer(model):
    """Norms and cosines of the real losses' gradients, cut up by hand."""
    found = encoder_gradients(model, PAIRS)
    assert found.layers[-4:] == ("vision/pos_embed", "vision/blocks/0", "vision/blocks/1", "encoder")
    for row, pair in enumerate(PAIRS):
        batch = model.processor.batch_of([pair])
        own = [batch.weights * np.isin(batch.target_branches, (0, branch)) for branch in (1, 2)]

        def losses(vision, batch=batch, own=own):
            stats = score(model.mllm, model.params | {"vision": vision}, batch).logps
            chosen, rejected = ((stats * weights).sum() for weights in own)
            margin = chosen - rejected
            return -chosen, -jax.nn.log_sigmoid(BETA * (margin - jax.lax.stop_gradient(margin)))

        sft, dpo = jax.jit(jax.jacrev(lambda v, losses=losses: jnp.stack(losses(v))))(model.params["vision"]), None
        sft, dpo = (jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], np.float64), sft) for i in (0, 1))
        parts = {"vision/embed": "embed", "vision/pos_embed": "pos_embed"}
        taken = {name: [jax.tree.leaves(side[key]) for side in (sft, dpo)] for name, key in parts.items()}
        for index in range(2):
            taken[f"vision/blocks/{index}"] = [
                [leaf[index] for leaf in jax.tree.leaves(side["blocks"])] for side in (sft, dpo)
            ]
        whole = ("embed", "pos_embed", "blocks")
        taken["encoder"] = [[leaf for key in whole for leaf in jax.tree.leaves(side[key])] for side in (sft, dpo)]
        assert set(taken) == set(found.layers)
        for column, name in enumerate(found.layers):
            a, b = (np.concatenate([leaf.reshape(-1) for leaf in side]) for side in taken[name])
            assert found.sft[row, column] == pytest.approx(np.linalg.norm(a), rel=1e-4)
            assert BETA / 2 * found.dpo[row, column] == pytest.approx(np.linalg.norm(b), rel=1e-4)
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found.cosine[row, column] == pytest.approx(cosine, abs=1e-5) and abs(cosine) < 0.999
    means = found.mean_cosines()
    assert means["encoder"].value == pytest.approx(found.cosine[:, -1].mean()) and means["encoder"].n == 2
    layered = SimpleNamespace(**vars(model) | {"params": stacking.per_layer(model.params)})
    np.testing.assert_allclose(encoder_gradients(layered, PAIRS[:1]).cosine, found.cosine[:1], atol=1e-5)


def test_layers_are_in_the_order_of_the_data_flow():
    from pivot_jax.probe.encoder_gradients import _place

    names = ["encoder", "vision/norm", "vision/blocks/10", "second/embed", "vision/blocks/2", "vision/embed"]
    order = ["vision/embed", "vision/blocks/2", "vision/blocks/10", "vision/norm", "second/embed", "encoder"]
    assert sorted(names, key=_place) == order


def test_pairs_that_have_no_gradients(model):
    for bad in (PAIRS[0].__class__("x", QUESTION, (IMAGES[0],), "a", "a"), Example("x", QUESTION, (), "a", "b")):
        with pytest.raises(UserError, match="row 'x': an image and two different answers are needed"):
            encoder_gradients(model, [bad])
    with pytest.raises(UserError, match="no pairs"):
        encoder_gradients(model, [])
