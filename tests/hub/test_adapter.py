"""LoRA adapters, parity with PEFT: the same function in both directions, the same gradients; errors."""

from __future__ import annotations

import json

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from pivot_jax import config as configs
from pivot_jax import hub, rules
from pivot_jax.errors import UserError
from pivot_jax.hub import HubModel, adapter
from pivot_jax.models import lora
from pivot_jax.models.mllm import MLLM, init_params
from pivot_jax.objectives.table import build_objective
from pivot_jax.optim import partition
from pivot_jax.optim.accumulate import loss_and_gradients
from tests.parity import compare
from tests.tiny import hf, pairs

IMAGE = pairs.VOCABULARY - 1  # a token that occurs nowhere else
MODEL = HubModel("llava", pairs.CONFIG.vision, pairs.CONFIG.decoder, pairs.CONFIG.projector, image_token_id=IMAGE)
TARGETS = (
    ("decoder/blocks/attn/q/kernel", 3),
    ("decoder/blocks/.*/kernel", "lora"),
    ("vision/blocks/attn/v/kernel", 5),
    ("projector/fc1/kernel", "lora"),
    (".*", "none"),
)
ALPHA = 3.0


def random_base():
    """tiny.CONFIG's weights, made by NumPy: compiling the initialisers takes longer than these tests."""
    shapes = rules.flatten(jax.eval_shape(lambda key: init_params(MLLM(pairs.CONFIG), key), jax.random.key(0)))
    rng = np.random.default_rng(0)
    flat = {
        path: (path.endswith("scale") + (x.shape[-2] ** -0.5 if x.ndim > 1 else 0.1) * rng.normal(size=x.shape))
        for path, x in shapes.items()
    }
    return rules.unflatten({path: x.astype(np.float32) for path, x in flat.items()})


BASE = random_base()


def with_adapter(params, *, rslora=False, trained=True, seed=0):
    """The tree with adapters by TARGETS, rank 2 where they name none."""
    rates = partition.peak_rates([partition.UNUSED_BY_MLLM, (".*", 1e-3)], params)
    ranks, _ = partition.lora_ranks({"rank": 2, "targets": TARGETS}, params, rates)
    kernels = {path: leaf.shape for path, leaf in rules.flatten(params).items()}
    tree = lora.create(jax.random.key(seed), kernels, ranks, ALPHA, rslora)
    rng = np.random.default_rng(seed)
    if trained:
        flat = rules.flatten(tree)
        moved = {p: 0.3 * rng.normal(size=x.shape).astype(np.float32) for p, x in flat.items() if p.endswith(lora.B)}
        tree = rules.unflatten(flat | moved)
    return partition.merge(params, jax.tree.map(np.asarray, tree))


def normalised_pairs(**changes):
    """Preference pairs with the image token in the slots of images, and images that are normalised already."""
    batch = pairs.pairs(4, seed=3, **changes)
    tokens = np.where(batch.image_slots >= 0, IMAGE, batch.tokens % IMAGE)
    targets = np.take_along_axis(tokens, np.minimum(batch.sources + 1, tokens.shape[1] - 1), 1)
    images = np.random.default_rng(1).normal(size=batch.images.shape).astype(np.float32)
    return batch.replace(
        tokens=tokens, targets=np.where(batch.weights > 0, batch.targets % IMAGE, targets), images=images
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """tiny.CONFIG's model as a LLaVA folder."""
    return hub.export_mllm(
        BASE, pairs.CONFIG, tmp_path_factory.mktemp("base") / "hf", text=hub.ExportText(image_token=IMAGE)
    )


def torch_model(folder, at=None):
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    return model if at is None else peft.PeftModel.from_pretrained(model, at, is_trainable=True).eval()


def torch_logits(model, batch):
    """[b, n, v] of rows of one branch."""
    images = torch.tensor(batch.images[:, 0]).permute(0, 3, 1, 2)
    ids = torch.tensor(batch.tokens, dtype=torch.long)
    return model(input_ids=ids, pixel_values=images, attention_mask=torch.tensor(batch.segments > 0)).logits


def torch_logps(model, batch):
    """Of every target [b, t]."""
    logits = torch.log_softmax(torch_logits(model, batch), -1)
    sources, targets = (torch.tensor(x, dtype=torch.long) for x in (batch.sources, batch.targets))
    picked = torch.take_along_dim(logits, sources[:, :, None], 1)
    return torch.take_along_dim(picked, targets[:, :, None], 2)[:, :, 0]


@jax.jit
def our_logits(params, batch):
    hidden = MLLM(pairs.CONFIG).apply({"params": params}, batch, method="hidden")
    return hidden @ params["decoder"]["head"].T


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_trained_here_loads_in_peft(folder, tmp_path, rslora):
    """Vision, projector and decoder at once, three ranks; and merged into its kernels it is the same function."""
    params = with_adapter(BASE, rslora=rslora)
    adapter.write(params, MODEL, tmp_path / "adapter", base=str(folder))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 2 and set(settings["rank_pattern"].values()) == {3, 5}
    batch = pairs.single(normalised_pairs(), 1)
    real = batch.segments > 0
    ours = np.asarray(our_logits(params, batch))[real]
    with torch.no_grad():
        theirs = torch_logits(torch_model(folder, tmp_path / "adapter"), batch)[torch.tensor(real)]
    compare("LoRA", f"written, rslora {rslora}", "logits", ours, theirs)
    base = np.asarray(our_logits(BASE, batch))[real]
    assert np.abs(ours - base).max() > 0.1, "the adapter does nothing"
    np.testing.assert_allclose(np.asarray(our_logits(lora.merged(params), batch))[real], ours, atol=1e-4)
    back = rules.flatten(adapter.read(tmp_path / "adapter", MODEL))
    for path, leaf in rules.flatten(lora.adapter(params)).items():
        np.testing.assert_allclose(back[path], leaf, rtol=1e-6, err_msg=path)


def test_an_untrained_adapter_is_the_base():
    batch = pairs.single(normalised_pairs(), 1)
    fresh = with_adapter(BASE, trained=False)
    np.testing.assert_array_equal(our_logits(fresh, batch), our_logits(BASE, batch))


PEFT = {
    "two ranks": dict(r=4, lora_alpha=6, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 9}),
    "rslora, one layer": dict(r=3, lora_alpha=5, use_rslora=True, layers_to_transform=[1]),
}


@pytest.mark.parametrize("settings", PEFT.values(), ids=PEFT)
def test_an_adapter_of_peft_s_is_read(tmp_path, settings):
    """On a Qwen2 of its own; its logits with ours, and merged."""
    hf.text_model(seed=2).save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(target_modules=["q_proj", "o_proj", "up_proj"], init_lora_weights=False, **settings)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    ids = np.random.default_rng(0).integers(0, 61, (2, 9)).astype(np.int32)
    with torch.no_grad():
        theirs = wrapped(input_ids=torch.tensor(ids, dtype=torch.long)).logits
    found = hub.read_config(tmp_path / "base")
    params = partition.merge(hub.load_params(tmp_path / "base"), adapter.read(tmp_path / "adapter", found))
    for name, tree in (("beside", params), ("merged", lora.merged(params))):
        compare("LoRA", f"read, {name}", "logits", text_logits(found.decoder, tree["decoder"], ids), theirs)


def text_logits(cfg, params, ids):
    from pivot_jax.models.decoder import Decoder

    decoder, ones = Decoder(cfg), np.ones_like(ids)
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    x = decoder.apply({"params": params}, ids, method="embed_tokens")
    return decoder.apply({"params": params}, x, positions, ones, method="hidden") @ params["embed"].T


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_gradients_are_peft_s(folder, tmp_path, name):
    """One step: of the adapters alone, with the base without them as DPO's reference."""
    params = with_adapter(BASE, seed=4)
    adapter.write(params, MODEL, tmp_path / "adapter")
    batch = normalised_pairs(ref=False)
    module = MLLM(pairs.CONFIG)
    config = configs.base()
    config.objective.name = name
    objective = build_objective(module, config)
    trained, base = lora.adapter(params), lora.base(params)
    scales = {p: x for p, x in rules.flatten(trained).items() if p.endswith(lora.SCALE)}
    trained = {p: x for p, x in rules.flatten(trained).items() if p not in scales}
    frozen = partition.merge(base, rules.unflatten(scales))
    rows = pairs.single(batch, 1) if name == "sft" else batch
    loss, gradients, _ = jax.jit(
        lambda trained, frozen, batch, base: loss_and_gradients(objective, trained, frozen, batch, 1, None, base)
    )(rules.unflatten(trained), frozen, rows, base)
    model = torch_model(folder, tmp_path / "adapter")
    theirs = torch_sft(model, rows) if name == "sft" else torch_dpo(model, batch, config.objective.beta)
    theirs.backward()
    compare("LoRA", name, "loss", loss, theirs)
    ours = partition.merge(gradients, rules.unflatten({p: np.ones_like(x) for p, x in scales.items()}))
    parameters = dict(model.named_parameters())
    for path, pair in adapter._pairs(ours, MODEL):
        for half, gradient in (("A", pair.a.T), ("B", pair.b.T)):
            there = parameters.pop(f"base_model.model.{path}.lora_{half}.default.weight").grad
            compare("LoRA", name, f"gradient of {path} {half}", gradient, there)
    assert not any(parameter.requires_grad for parameter in parameters.values())


def torch_sft(model, batch):
    weights = torch.tensor(batch.weights)
    return -(torch_logps(model, batch) * weights).sum() / weights.sum()


def torch_dpo(model, batch, beta):
    def sums():
        rows = [pairs.single(batch, branch) for branch in (1, 2)]
        return [(torch_logps(model, row) * torch.tensor(row.weights)).sum(1) for row in rows]

    with torch.no_grad(), model.disable_adapter():
        reference = sums()
    policy = sums()
    margin = (policy[0] - reference[0]) - (policy[1] - reference[1])
    return -torch.nn.functional.logsigmoid(beta * margin).mean()


def rewrite(at, change=None, **settings):
    raw = json.loads((at / "adapter_config.json").read_text())
    (at / "adapter_config.json").write_text(json.dumps({**raw, **settings}))
    if change:
        tensors = change(load_file(at / "adapter_model.safetensors"))
        save_file({key: np.ascontiguousarray(x) for key, x in tensors.items()}, at / "adapter_model.safetensors")


Q1 = "base_model.model.model.language_model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, dict(use_dora=True), "adapter_config.json: 'use_dora' is True; supported: False"),
        (None, dict(peft_type="IA3"), "'peft_type' is 'IA3'; supported: 'LORA'"),
        (None, dict(lora_alpha=None), "'lora_alpha' is None; expected a number above 0"),
        (lambda t: {k.replace("q_proj", "q_prj"): x for k, x in t.items()}, {},
         "'.*q_prj' is not a linear .*; nearest: '.*q_proj"),
        (lambda t: {k: x[:, 1:] if k == f"{Q1}.lora_A.weight" else x for k, x in t.items()}, {},
         r"has A \[3, 31\] and B"),
        (lambda t: {k: x for k, x in t.items() if k != f"{Q1}.lora_A.weight"}, {}, "q_proj' has lora_B alone"),
        (lambda t: {**t, "x.weight": np.ones(1)}, {}, "'x.weight' is not a weight of a LoRA"),
        (lambda t: {}, {}, "holds no adapter"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_of_this_model(tmp_path, change, settings, message):
    adapter.write(with_adapter(BASE), MODEL, tmp_path / "adapter")
    rewrite(tmp_path / "adapter", change, **settings)
    with pytest.raises(UserError, match=message):
        adapter.read(tmp_path / "adapter", MODEL)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="hold no LoRA adapter"):
        adapter.write(BASE, MODEL, tmp_path / "out")
    params = BASE
    kernels = {path: leaf.shape for path, leaf in rules.flatten(params).items()}
    embed = lora.create(jax.random.key(0), kernels, {"vision/embed/kernel": 2}, 1.0, False)
    with pytest.raises(UserError, match=r"'vision/embed/kernel' is on no linear layer of transformers'"):
        adapter.write(partition.merge(params, embed), MODEL, tmp_path / "out")
    with pytest.raises(UserError, match="adapter_model.safetensors is missing"):
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
        adapter.read(tmp_path, MODEL)
