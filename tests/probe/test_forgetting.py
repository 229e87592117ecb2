"""Zero-shot classes and retrieval with the original text tower, of encoders between two."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.cli import main as cli
from pivot_jax.data.processing.tokenizer import train_bpe
from pivot_jax.errors import UserError
from pivot_jax.probe.retention import between, forgetting
from pivot_jax.probe.zero_shot import classified, open_text_encoder, retrieved, unit
from pivot_jax.train.open import open_encoder
from pivot_jax.train.run import run
from pivot_jax.train.setup import build_setup
from tests.probe.conftest import tiny_encoder

NAMES = ("b", "g", "r")  # in the order of the folders


def test_retrieval_and_classes_by_hand():
    texts = unit(np.eye(4)[[0, 1, 2, 2]])  # the last two say the same
    images = unit(np.asarray([[1, 0.2, 0, 0], [1, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.1]]))
    to_text, to_image = retrieved(images, texts, 1)
    assert to_text.tolist() == [True, False, True, True] and to_image.tolist() == [True, True, True, True]
    assert retrieved(images, texts, 2)[0].all()
    assert classified(images, texts[:3], np.asarray([0, 1, 2, 2])).tolist() == [True, False, True, True]


def test_an_encoder_between_two_has_the_original_s_head():
    original, trained = tiny_encoder("siglip", 0), tiny_encoder("siglip", 1)
    ours, theirs = (rules.flatten(one.params["vision"]) for one in (original, trained))
    trained = replace(trained, params={"vision": {k: v for k, v in trained.params["vision"].items() if k != "final"}})
    for weight in (0.0, 0.25, 1.0):
        found = rules.flatten(between(original, trained, weight).params["vision"])
        assert found.keys() == ours.keys()
        for path, array in found.items():
            other = ours[path] if path.startswith("final/") else theirs[path]
            np.testing.assert_allclose(array, (1 - weight) * ours[path] + weight * other, atol=1e-7)
    with pytest.raises(UserError, match="name the encoder that training started from"):
        between(original, tiny_encoder("clip"), 1.0)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A whole random SigLIP with a tokenizer, and images of three colours as classes and with captions."""
    torch = pytest.importorskip("torch")
    import transformers

    root = tmp_path_factory.mktemp("forgetting")
    train_bpe([f"This is a photo of {name}. a {name} one" for name in NAMES] * 4, 300, root / "siglip")
    sizes = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)
    text = dict(sizes, vocab_size=300, max_position_embeddings=16, projection_size=24)
    torch.manual_seed(1)
    config = transformers.SiglipConfig(text_config=text, vision_config=dict(sizes, image_size=16, patch_size=4))
    model = transformers.SiglipModel(config).eval()
    model.save_pretrained(root / "siglip")
    rng, rows = np.random.default_rng(0), []
    for split in ("train", "test"):
        for i in range(12):
            colour = np.asarray([(30, 30, 200), (30, 200, 30), (200, 30, 30)][i % 3])
            pixels = np.clip(colour + rng.normal(0, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
            name = f"classes/{split}/{NAMES[i % 3]}/{i}.png"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name)
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"a {NAMES[i % 3]} one"}]
            rows.append({"id": f"{split}{i}", "image": name, "conversations": turns})
    (root / "captions.json").write_text(json.dumps(rows[12:]))
    return root, model


def test_zero_shot_is_that_of_transformers(siglip):
    import torch

    root, model = siglip
    text, encoder = open_text_encoder(f"hf:{root / 'siglip'}"), open_encoder(f"hf:{root / 'siglip'}")
    tokens = text.tokens([f"This is a photo of {name}." for name in NAMES])
    paths = sorted((root / "classes" / "test").glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        out = model(input_ids=torch.as_tensor(tokens), pixel_values=torch.as_tensor(pixels, dtype=torch.float32))
    wanted = out.logits_per_image.argmax(1).numpy()
    labels = np.asarray([NAMES.index(path.parent.name) for path in paths])
    found = forgetting(encoder, encoder, text, classes=root / "classes", captions=root / "captions.json", weights=())
    assert found.scores["zero-shot"][0.0].value == pytest.approx((wanted == labels).mean())
    for name in ("zero-shot", "image to text", "text to image"):  # the same encoder has forgotten nothing
        assert found.changes[name][1.0].value == 0
        np.testing.assert_array_equal(found.correct[name][0.0], found.correct[name][1.0])


def test_the_command(siglip, capsys, tmp_path):
    root, _ = siglip
    encoder, rng = open_encoder(f"hf:{root / 'siglip'}"), np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(x.dtype), encoder.params)
    replace(encoder, params=moved).export(tmp_path / "trained")
    argv = ["probe", "forgetting", "--encoder", f"hf:{tmp_path / 'trained'}", "--original", f"hf:{root / 'siglip'}",
            "--classes", root / "classes", "--captions", root / "captions.json", "--weights", "0.5",
            "--out", tmp_path / "out.json"]  # fmt: skip
    assert cli.main([str(word) for word in argv]) == 0
    assert "zero-shot" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out.json").read_text())["scores"]
    assert [row["weight"] for row in rows if row["score"] == "image to text"] == [0.0, 0.5, 1.0]
    argv[argv.index("--weights") + 1] = "2"
    with pytest.raises(SystemExit):
        cli.main([str(word) for word in argv])


def test_bad_requests_are_one_clear_line(siglip):
    root, _ = siglip
    encoder, text = open_encoder(f"hf:{root / 'siglip'}"), open_text_encoder(f"hf:{root / 'siglip'}")
    for options, words in (
        ({}, "no data"),
        ({"classes": root / "classes", "template": "a photo"}, "has no {} for the class name"),
        ({"classes": root / "classes", "weights": (2.0,)}, "weight 2 is not between 0 and 1"),
    ):
        with pytest.raises(UserError, match=words):
            forgetting(encoder, encoder, text, **options)
    with pytest.raises(UserError, match="has no text tower; name a stage 0"):
        open_text_encoder(f"pack:{root}")


def test_texts_of_stage_0_are_tokenised_as_in_training(siglip, tmp_path):
    root, _ = siglip
    config = configs.load("", {
        "objective.name": "contrastive", "tokenizer.path": str(root / "siglip"), "data.batch_size": 12,
        "data.sources": ({"format": "llava", "path": str(root / "captions.json")},), "train.steps": 1,
        "model.vision.image_size": 16, "data.image.size": 16, "model.vision.patch_size": 4, "model.vision.width": 24,
        "model.vision.depth": 2, "model.vision.heads": 2, "model.vision.mlp_dim": 32, "model.text.width": 16,
        "model.text.depth": 1, "model.text.heads": 2, "model.text.mlp_dim": 32, "model.text.max_length": 12,
    })  # fmt: skip
    run(config, tmp_path / "stage0")
    text = open_text_encoder(f"run:{tmp_path / 'stage0'}")
    (batch,) = build_setup(config, None).loader.ordered()
    captions = [row["conversations"][-1]["value"] for row in json.loads((root / "captions.json").read_text())]
    np.testing.assert_array_equal(text.tokens(captions)[np.asarray(batch.row_index)], np.asarray(batch.tokens))
    assert text.encode(captions[:2]).shape == (2, 24)
