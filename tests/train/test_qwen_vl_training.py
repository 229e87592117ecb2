"""A tiny Qwen2.5-VL: trained packed and on a mesh; pairs that share image and prompt; its encoder in another model."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from PIL import Image

from pivot_jax import rules
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.train import checkpoint
from pivot_jax.train.extract import extract
from pivot_jax.train.metrics import read
from pivot_jax.train.model import build_model, processor_of
from pivot_jax.train.open import open_encoder, open_run
from pivot_jax.train.run import run
from tests.tiny.pairs import single

QWEN = dict(
    model__vision__family="qwen2_5_vl", model__vision__activation="silu", model__vision__patch_size=4,
    model__vision__depth=2, model__vision__window=16, model__vision__full_blocks=(1,),
    model__decoder__mrope_section=(2, 1, 1), data__image__preset="qwen2_5_vl", data__image__max_patches=48,
    data__image__min_pixels=128, data__image__max_pixels=640, data__images_per_row=2,
)  # fmt: skip
STEPS = 3


@pytest.fixture(scope="module")
def sources(world):
    """Rows with one and two images of several sizes: chats and pairs."""
    rng = np.random.default_rng(0)
    chats, pairs = [], []
    for i in range(16):
        names = [f"qwen{i}-{j}.png" for j in range(1 + i % 2)]
        for name in names:
            height, width = rng.integers(8, 40, 2)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(world / name)
        question, answer = "<image>\n" * len(names) + "What colour is picture 1?", ["It is red.", "It is blue."]
        images = [{"role": "user", "content": question}]
        chats.append({"messages": [*images, {"role": "assistant", "content": answer[0]}], "images": names})
        pairs.append(
            {"prompt": images, "chosen": answer[i % 2], "rejected": answer[1 - i % 2] + " Yes.", "images": names}
        )
    for name, rows in (("chats", chats), ("pairs", pairs)):
        (world / f"qwen_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        name: {"format": "trl", "path": str(world / f"qwen_{name}.jsonl"), "image_root": str(world)}
        for name in ("chats", "pairs")
    }


def losses(workdir):
    return [line["loss"] for line in read(workdir / "metrics.jsonl")]


@pytest.mark.heavy
def test_stages_on_meshes_and_packed(sources, make_config, tmp_path):
    """SFT on eight devices; the same packed on a 2 x 2 x 2 mesh; DPO from it; stage 3 from the pack of its encoder."""
    common = QWEN | dict(data__sources=(sources["chats"],), train__steps=STEPS, optimizer__eps=1e-5)
    run(make_config(**common), tmp_path / "sft")
    mesh = {f"parallel__{axis}": 2 for axis in ("data", "fsdp", "tensor")}
    run(make_config(**common, **mesh, data__pack=2), tmp_path / "packed")
    np.testing.assert_allclose(losses(tmp_path / "packed"), losses(tmp_path / "sft"), rtol=1e-4)
    start, packed = (rules.flatten(checkpoint.load_run(tmp_path / name)) for name in ("sft", "packed"))
    for path, leaf in start.items():
        np.testing.assert_allclose(packed[path], leaf, atol=1e-5, err_msg=path)

    pairs = common | dict(data__sources=(sources["pairs"],), objective__name="dpo")
    run(make_config(**pairs, init={"": f"run:{tmp_path / 'sft'}"}), tmp_path / "dpo")
    assert losses(tmp_path / "dpo")[0] == pytest.approx(np.log(2), abs=1e-5)
    trained = rules.flatten(checkpoint.load_run(tmp_path / "dpo"))
    assert trained.keys() == start.keys() and {"projector/norm/scale", "vision/embed/kernel"} <= start.keys()
    still = {path for path, leaf in trained.items() if np.array_equal(leaf, start[path])}
    assert not still, f"DPO moved everything but {still}"

    extract(tmp_path / "dpo", tmp_path / "pack")
    only = (("projector/.*", 1e-2), (".*", "frozen"))
    init = {name: f"pack:{tmp_path / 'pack'}" for name in ("vision", "projector")}
    run(make_config(**common, init=init, optimizer__rules=only), tmp_path / "third")
    third = rules.flatten(checkpoint.load_run(tmp_path / "third"))
    for path, leaf in trained.items():
        if path.startswith("vision/"):
            np.testing.assert_array_equal(third[path], leaf, err_msg=path)
    with pytest.raises(UserError, match="variable-resolution images"):
        open_encoder(f"pack:{tmp_path / 'pack'}")
    opened = open_run(tmp_path / "dpo")
    assert opened.processor.chat.mrope and not opened.processor.geometry.fixed


def test_a_pair_in_one_row_equals_two_sequences(sources, make_config, world):
    """Log-probs and gradients of a pair in one row, with M-RoPE and images of several sizes."""
    config = make_config(**QWEN, objective__name="dpo", data__sources=(sources["pairs"],), data__batch_size=4)
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
    separate, other = apart(params, [single(batch, branch) for branch in (1, 2)])
    np.testing.assert_allclose(together, separate, atol=2e-5)
    flat = rules.flatten(other)
    for path, leaf in rules.flatten(gradient).items():
        np.testing.assert_allclose(leaf, flat[path], atol=2e-5 * (1 + float(np.abs(leaf).max())), err_msg=path)
        assert np.abs(leaf).max() > 0, path


@pytest.mark.heavy
def test_naflex_trains_on_variable_resolution_images(sources, make_config, tmp_path):
    """SigLIP2 NaFlex goes through the same pipeline: no merging, one position per token."""
    changes = QWEN | dict(
        model__vision__family="siglip2_naflex", model__vision__activation="gelu_tanh", model__decoder__mrope_section=(),
        data__image__preset="siglip2_naflex", data__image__max_patches=24, data__sources=(sources["chats"],),
    )  # fmt: skip
    run(make_config(**changes, train__steps=STEPS), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == STEPS and np.isfinite(found).all()
    assert open_run(tmp_path / "run").processor.geometry.features == 24


def test_parts_that_do_not_fit_are_rejected(make_config, sources):
    fitting = QWEN | dict(data__sources=(sources["chats"],))
    for changes, match in (
        (dict(data__image__preset="siglip"), "data.image.preset: 'siglip' is not how"),
        (dict(model__vision__family="siglip"), "data.image.preset: 'qwen2_5_vl' is not how"),
        (dict(model__projector__reuse=1), "model.projector.reuse"),
        (dict(model__vision__window=10), "window of 10 pixels"),
        (dict(objective__name="contrastive"), "stage 0 trains one ViT"),
    ):
        with pytest.raises(UserError, match=match):
            build_model(make_config(**fitting | changes), 300)
    with pytest.raises(UserError, match="data.image.min_pixels"):
        make_config(**fitting | dict(data__image__min_pixels=1000))
