"""A run's images are prepared as it was trained, whoever asks: the API, the command line, the study, the notebook."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pivot_jax as pj
from pivot_jax.cli import main as cli
from pivot_jax.data.processing.geometry import blank
from pivot_jax.data.processing.images import preprocess
from pivot_jax.probe import features
from pivot_jax.rollout import program
from pivot_jax.study.measures import Task, answers
from pivot_jax.train.run import run

SIZE = 16
FAMILIES = {"clip": {"model__vision__pool_head": False}, "dinov2": {"model__vision__pool_head": False}}


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, world, make_config, tmp_path_factory):
    """Preset and workdir of a run whose preset crops images, which SigLIP's does not."""
    preset = request.param
    workdir = tmp_path_factory.mktemp(preset) / "stage1b"
    family = {"model__vision__family": preset, "data__image__preset": preset, **FAMILIES[preset]}
    run(make_config(**family, train__steps=1), workdir)
    return preset, workdir


@pytest.fixture
def photo(tmp_path):
    """An image that is not a square, so that cropping and squashing differ."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 48, 3)).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def batches(monkeypatch):
    """Images of every batch that a model is asked about."""
    found, read = [], program.read

    def record(model, weights, prompts):
        found.append(np.asarray(prompts.images))
        return read(model, weights, prompts)

    monkeypatch.setattr(program, "read", record)
    return found


def study_answerer(workdir, monkeypatch, blank_images):
    """The answerer that a study asks its questions with."""
    made = []
    found = SimpleNamespace(per_unit=lambda: [], units=None, clusters=None)
    monkeypatch.setattr(answers, "evaluate", lambda name, data, model, *_: made.append(model) or found)
    monkeypatch.setattr(answers.predictions, "read", lambda path: [])
    answers.answers(Task(workdir, "answers", {"benchmark": "scenes", "path": ".", "blank": blank_images}))
    return made[0]


@pytest.mark.heavy_after(1)
def test_every_way_to_ask_prepares_images_as_in_training(trained, photo, batches, monkeypatch):
    preset, workdir = trained
    wanted = preprocess(Image.open(photo), preset, SIZE)
    assert not np.array_equal(wanted, preprocess(Image.open(photo), "siglip", SIZE))
    model = pj.load(f"run:{workdir}")
    question = pj.Example("1", (pj.Message("user", "<image>\nWhat colour?"),), (str(photo),))
    model.chat("What colour?", [photo], max_new_tokens=2)  # the API, and the notebook
    model.answerer(1).answer([question], 2)
    argv = ["generate", "--workdir", str(workdir), "--image", str(photo), "--prompt", "What colour?"]
    assert cli.main([*argv, "--max-new-tokens", "2"]) == 0
    study_answerer(workdir, monkeypatch, False).answer([question], 2)
    assert len(batches) == 4
    for images in batches:
        np.testing.assert_array_equal(images[0, 0], wanted)


@pytest.mark.heavy_after(1)
def test_blank_images_have_the_preset_s_mean_colour(trained, photo, batches, monkeypatch):
    preset, workdir = trained
    question = pj.Example("1", (pj.Message("user", "<image>\nWhat colour?"),), (str(photo),))
    for ask in (pj.load(f"run:{workdir}").answerer(1, blank_images=True), study_answerer(workdir, monkeypatch, True)):
        ask.answer([question], 2)
    wanted = blank((SIZE, SIZE, 3), preset)
    assert not np.array_equal(wanted, blank((SIZE, SIZE, 3), "siglip"))
    for images in batches:
        np.testing.assert_array_equal(images[0, 0], wanted)


@pytest.mark.heavy_after(1)
def test_probes_prepare_images_as_in_training(trained, photo):
    preset, workdir = trained
    model = pj.load(f"run:{workdir}")
    wanted = preprocess(Image.open(photo), preset, SIZE)
    shown, _ = pj.probe.gradmap(model, photo, "What colour?", "It is red.")
    np.testing.assert_array_equal(shown, wanted)
    ours = model.module.apply({"params": model.params}, wanted[None, None], method="encode_images")
    images = features.extract(features.vit_encoder(model.module), model.params, wanted[None], pool="none", show=False)
    np.testing.assert_allclose(images, ours, atol=1e-5)
    tokens = model.module.apply({"params": model.params}, ours, method="project")
    np.testing.assert_allclose(model.encode_images([photo]), tokens, atol=1e-5)
