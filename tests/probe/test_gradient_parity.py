"""Activations, gradients, Grad-CAM and attention rollout of our encoders equal those that PyTorch gives, live."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import pivot_jax as pj
from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.models.vit import ViT
from pivot_jax.probe.gradient_maps import MapSettings, grad_cam, question_map, rollout
from tests.tiny import hf

KINDS = ("siglip_vision_model", "clip_vision_model", "dinov2_with_registers")


def torch_grad_cam(held: torch.Tensor, pulls: torch.Tensor) -> torch.Tensor:
    """[b, p, d] each: weights are the mean gradient of a channel; what speaks against the score is dropped."""
    weights = pulls.mean(dim=1)
    return torch.relu(torch.einsum("bpd,bd->bp", held, weights))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.heavy_after(1)
def test_grad_cam_and_rollout_of_an_encoder_at_every_layer(tmp_path, kind):
    model = hf.encoder(kind, num_hidden_layers=4)
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")
    cfg, params = hub.read_config(tmp_path).vision, hub.load_params(tmp_path)["vision"]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 24, 24, 3)).astype(np.float32)
    direction = rng.normal(size=(9, 24)).astype(np.float32)
    vit, prefix = ViT(cfg), cfg.prefix

    def score(offsets):
        features, outputs = vit.apply({"params": params}, images, offsets, method="features_with_offsets")
        return (jnp.tanh(features) * direction).sum(), outputs

    zeros = jnp.zeros((cfg.blocks, 2, 9 + prefix, 24))
    gradients, outputs = jax.jit(jax.grad(score, has_aux=True))(zeros)
    weights = np.asarray(jax.jit(lambda p: vit.apply({"params": p}, images, method="attention_weights"))(params))
    rolled = rollout(weights, prefix, class_token=cfg.traits.class_token)

    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    theirs = model(pixels, output_hidden_states=True, output_attentions=True)
    features = theirs.hidden_states[-2] if cfg.traits.penultimate else theirs.last_hidden_state
    total = (torch.tanh(features[:, prefix:]) * torch.tensor(direction)).sum()
    joint = torch.eye(9 + prefix)
    for layer in range(cfg.blocks):
        held = theirs.hidden_states[layer + 1]
        (pulls,) = torch.autograd.grad(total, held, retain_graph=True)
        expected = torch_grad_cam(held[:, prefix:], pulls[:, prefix:])
        assert expected.max() > 1e-2 and (expected == 0).any()  # the score pulls both ways
        assert hf.max_gap(outputs[layer], held) <= 1e-5
        assert hf.max_gap(gradients[layer], pulls) <= 1e-5
        ours = grad_cam(outputs[layer][:, prefix:], gradients[layer][:, prefix:])
        assert hf.max_gap(ours, expected) <= 1e-5
        step = 0.5 * theirs.attentions[layer].mean(dim=1) + 0.5 * torch.eye(9 + prefix)
        joint = step @ joint
        read = joint[:, 0, prefix:] if cfg.traits.class_token else joint[:, :, :].mean(dim=1)
        assert hf.max_gap(rolled[layer], read) <= 1e-5


@pytest.mark.parametrize("layer", [None, 0])
def test_grad_cam_of_an_answer_equals_llava(tmp_path, layer):
    """Through SigLIP, projector and language model of a whole LLaVA: the score is log p of the answer."""
    root = hf.parts_and_imports(tmp_path)
    run = pj.load(f"hf:{root / 'whole'}")
    theirs = hf.llava_model(text=dict(vocab_size=run.mllm.config.decoder.vocab_size)).eval()
    image = np.random.default_rng(1).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    shown, ours = question_map(
        run, image, "what colour is it?", "red", settings=MapSettings(method="gradcam", layer=layer)
    )
    np.testing.assert_array_equal(shown, image)
    turns = (Message("user", "<image>\nwhat colour is it?"), Message("assistant", "red"))
    batch = run.processor.for_kind("sft").batch_of([Example("0", turns, (image,))])
    tokens = np.where(batch.image_slots >= 0, hf.IMAGE_TOKEN, batch.tokens)
    held: dict[str, torch.Tensor] = {}
    tower = theirs.model.vision_tower
    blocks = getattr(tower, "vision_model", tower).encoder.layers
    hook = blocks[1 if layer is None else layer].register_forward_hook(
        lambda module, inputs, output: held.update(out=output[0] if isinstance(output, tuple) else output)
    )
    pixels = torch.tensor((image / 255 - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1)[None]
    logits = theirs(input_ids=torch.tensor(tokens), pixel_values=pixels).logits[0]
    hook.remove()
    scored = batch.weights[0] > 0
    logps = torch.log_softmax(logits, -1)[batch.sources[0, scored], batch.targets[0, scored]].sum()
    (pulls,) = torch.autograd.grad(logps, held["out"])
    expected = torch_grad_cam(held["out"].reshape(1, 9, -1), pulls.reshape(1, 9, -1)).reshape(3, 3)
    assert expected.max() > 1e-3
    assert hf.max_gap(ours, expected) <= 1e-5 * max(1.0, float(expected.max().detach()))
