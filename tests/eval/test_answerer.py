"""A real (tiny) model answers and ranks examples with images, in batches that do not change the answers."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.tiles import tiles_of
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.answerer import Answerer, Decoding
from pivot_jax.models.mllm import MLLM, init_params
from tests.tiny import mllm, processing


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = train_bpe(["What colour is it? red green blue yellow"] * 4, 300, tmp_path_factory.mktemp("tokenizer"))
    return *mllm.tiny_mllm(300, gain=2.0), processing.processor(load_tokenizer(folder), max_length=128)


def examples(count=5):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (count, 20, 12, 3), dtype=np.uint8)
    text = "<image>\nWhat colour is it?"
    return [Example(f"q{i}", (Message("user", text + " red" * i),), (images[i],)) for i in range(count)]


def test_answers_do_not_depend_on_the_batch(parts):
    counted = []
    together = Answerer(*parts, batch_size=4).answer(examples(), 5, counted.append)
    alone = Answerer(*parts, batch_size=1).answer(examples(), 5)
    assert together == alone and len(together) == 5 and sum(counted) == 5
    assert not all(reply.finished for reply in together)


def test_a_sampled_answer_depends_on_seed_and_question_alone(parts):
    rows = examples()
    sampled = [Answerer(*parts, batch_size=size, decoding=Decoding(1.0, seed=3)).answer(rows, 5) for size in (2, 4)]
    assert sampled[0] == sampled[1] and len({reply.text for reply in sampled[0]}) > 1
    assert Answerer(*parts, batch_size=2, decoding=Decoding(1.0, seed=3)).answer(rows[2:], 5) == sampled[0][2:]
    assert Answerer(*parts, batch_size=2, decoding=Decoding(1.0, seed=4)).answer(rows, 5) != sampled[0]


def test_a_call_can_have_a_temperature_and_a_truncation_of_its_own(parts):
    rows = examples()
    greedy, sampling = Answerer(*parts, decoding=Decoding(seed=3)), Answerer(*parts, decoding=Decoding(1.0, seed=3))
    assert greedy.answer(rows, 5, temperature=1.0) == sampling.answer(rows, 5)
    assert sampling.answer(rows, 5, temperature=0.0) == greedy.answer(rows, 5)
    assert greedy.for_sampling(1.0).answer(rows, 5) == sampling.answer(rows, 5)
    assert sampling.for_sampling(1.0, 1e-6).answer(rows, 5) == sampling.answer(rows, 5, min_p=1.0)
    assert sampling.answer(rows, 5, top_k=1) == sampling.answer(rows, 5, top_p=1e-6) == greedy.answer(rows, 5)


def test_blank_images_blind_the_model(parts):
    seeing, blind = Answerer(*parts), Answerer(*parts, blank_images=True)
    same_text = [Example(e.id, examples()[0].messages, e.images) for e in examples()]
    options = [["red", "green"]] * len(same_text)
    assert np.ptp(blind.option_logps(same_text, options)[0], axis=0).max() < 1e-5
    assert np.ptp(seeing.option_logps(same_text, options)[0], axis=0).min() > 1e-3


def test_ranking_options(parts):
    answerer = Answerer(*parts, batch_size=2)
    options = [["red", "green"], ["blue", "red", "green"], ["red", "green"]]
    sums, counts = answerer.option_logps(examples(3), options)
    assert sums.shape == counts.shape == (3, 3)
    assert np.isneginf(sums[0, 2]) and counts[0, 2] == 0 and (counts[1] >= 2).all()
    swapped, _ = answerer.option_logps(examples(3), [option[::-1] for option in options])
    np.testing.assert_allclose(swapped[1], sums[1][::-1], rtol=1e-4)
    best = answerer.choose(examples(3), options)
    assert best == [int((sums / np.maximum(counts, 1))[i].argmax()) for i in range(3)]


def test_questions_that_cannot_be_asked_stop_the_evaluation(parts):
    missing = Example("q9", examples()[0].messages, ("no/such.png",))
    with pytest.raises(UserError, match="row 'q9'.*does not exist"):
        Answerer(*parts).answer([missing], 2)
    long = Example("q8", (Message("user", "<image>\n" + "colour " * 300),), examples()[0].images)
    with pytest.raises(RowError, match="row 'q8'.*the limit is 128"):
        Answerer(*parts).answer([long], 2)


@pytest.mark.heavy
def test_tiled_images_are_answered_and_blanked(parts):
    """LLaVA-OneVision's tiles are squares of the encoder's size, several to an image; an evaluation keeps none."""
    module, _, square = parts
    cfg = module.config
    cfg = replace(cfg, projector=replace(cfg.projector, newline=True))
    module = MLLM(cfg)
    params = init_params(module, jax.random.key(0))
    section = {"max_tiles": 5, "preset": "siglip", "size": cfg.vision.image_size}
    tiled = processing.processor(
        square.chat.tokenizer, geometry=tiles_of(section, cfg.vision.patch_size), max_length=256
    )
    together = Answerer(module, params, tiled, batch_size=2).answer(examples(3), 4)
    assert together == Answerer(module, params, tiled, batch_size=1).answer(examples(3), 4)
    blind = Answerer(module, params, tiled, blank_images=True)
    same_text = [Example(e.id, examples()[0].messages, e.images) for e in examples(3)]
    assert np.ptp(blind.option_logps(same_text, [["red", "green"]] * 3)[0], axis=0).max() < 1e-5


def test_an_answerer_says_what_its_answers_depend_on(parts):
    """A greedy answer does not depend on the seed, a sampled one does; neither depends on the batch."""
    greedy = [Answerer(*parts, decoding=Decoding(seed=seed), batch_size=2 + seed).settings for seed in (0, 1)]
    assert greedy[0] == greedy[1] == {"temperature": 0.0, "preset": "siglip", "blank_images": False}
    sampled = [Answerer(*parts, decoding=Decoding(0.5, seed=seed)).settings for seed in (0, 1)]
    assert sampled[0] != sampled[1]
    assert sampled[1] == Answerer(*parts, decoding=Decoding(0.5, seed=1), batch_size=3).settings
    assert Answerer(*parts, blank_images=True).settings != greedy[0]
    truncated = Answerer(*parts, decoding=Decoding(seed=1), batch_size=3).for_sampling(0.5, 0.9)
    assert truncated.settings == sampled[1] | {"top_p": 0.9} and truncated.batch_size == 3
