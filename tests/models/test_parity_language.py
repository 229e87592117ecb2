"""Parity of the decoder with transformers' Qwen2, Qwen3, Llama and Qwen2-VL's text model, live."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from pivot_jax import hub
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers, rotary
from pivot_jax.models.decoder import Decoder, DecoderBlock, DecoderConfig
from tests.parity import compare
from tests.tiny import hf

LONG = 29  # tokens: more than the pretrained context of the scaled configs
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 16},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
SHAPES: dict[str, tuple[str, dict]] = {
    "tied, two queries per key": ("qwen2", {}),
    "untied, no grouping, odd sizes": (
        "qwen2",
        dict(tie_word_embeddings=False, num_key_value_heads=4, hidden_size=56, intermediate_size=43, vocab_size=59),
    ),
    "head size of its own, long waves": (
        "qwen2",
        dict(num_attention_heads=6, num_key_value_heads=3, head_dim=10, rope_parameters={"rope_theta": 1e6}),
    ),
    "yarn": ("qwen2", dict(rope_parameters=YARN)),
    "heads wider than the model": ("qwen3", {}),
    "untied, three layers, odd sizes": (
        "qwen3",
        dict(tie_word_embeddings=False, hidden_size=27, num_attention_heads=5, num_key_value_heads=1, head_dim=14,
             num_hidden_layers=3, intermediate_size=37),
    ),
    "yarn with an attention factor": (
        "qwen3",
        dict(rope_parameters={**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}),
    ),
    "no biases": ("llama", {}),
    "untied, odd sizes": (
        "llama",
        dict(tie_word_embeddings=False, hidden_size=30, num_attention_heads=5, num_key_value_heads=1, vocab_size=67),
    ),
    "llama3": ("llama", dict(rope_parameters=LLAMA3, head_dim=18)),
    "linear": ("llama", dict(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5})),
    "dynamic": (
        "llama",
        dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, max_position_embeddings=16),
    ),
    "yarn with two scales": ("llama", dict(rope_parameters={**YARN, "mscale": 0.9, "mscale_all_dim": 0.6})),
}  # fmt: skip
SHORT = ("tied, two queries per key", "untied, three layers, odd sizes", "llama3", "dynamic")  # of `make test`
CASES = [pytest.param(name, id=name, marks=() if name in SHORT else pytest.mark.heavy) for name in SHAPES]


def _run(cfg, params, tokens, positions, segments, dtype="float32"):
    """Output of the first block for the embedded tokens, closing-norm states, logits."""
    decoder = Decoder(cfg, dtype)

    @jax.jit
    def run(params):
        variables = {"params": params["decoder"]}
        x = decoder.apply(variables, tokens, method="embed_tokens")
        hidden = decoder.apply(variables, x, positions, segments, method="hidden")
        first = jax.tree.map(lambda leaf: leaf[0], params["decoder"]["blocks"])
        sections = cfg.mrope_section
        angles = rotary.angles(positions, segments, cfg.head_width, cfg.rope_theta, cfg.rope_scaling, sections)
        ids = Ids.same(segments)
        block, _ = DecoderBlock(cfg).apply({"params": first}, x, None, angles, ids, layers.Collect(False))
        head = params["decoder"].get("head", params["decoder"]["embed"])
        return block, hidden, jnp.einsum("bnd,vd->bnv", hidden, head)

    return run(params)


def _theirs(model, tokens, **inputs):
    kept = []
    base = getattr(model, "model", model)
    hook = base.layers[0].register_forward_hook(lambda module, args, out: kept.append(out))
    with torch.no_grad():
        hidden = base(torch.tensor(tokens), **inputs).last_hidden_state
        logits = model.lm_head(hidden) if hasattr(model, "lm_head") else None
    hook.remove()
    return kept[0] if torch.is_tensor(kept[0]) else kept[0][0], hidden, logits


@pytest.mark.parametrize("name", CASES)
def test_block_states_and_logits_equal_transformers(tmp_path, name):
    family, changes = SHAPES[name]
    model = hf.text_model(family=family, **changes)
    model.save_pretrained(tmp_path)
    cfg = hub.read_config(tmp_path).decoder
    assert cfg.tied == model.config.tie_word_embeddings
    assert cfg.rope_scaling.rope_type == model.config.rope_parameters["rope_type"]
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, LONG))
    positions = np.broadcast_to(np.arange(LONG), (2, LONG))
    ours = _run(cfg, hub.load_params(tmp_path), tokens, positions, np.ones((2, LONG), np.int32))
    for what, mine, theirs in zip(("block", "states", "logits"), ours, _theirs(model, tokens), strict=True):
        compare(family, name, what, mine, theirs, 1e-5 if what == "block" else 1e-4)


@pytest.mark.parametrize(
    "family", ["qwen3", pytest.param("qwen2", marks=pytest.mark.heavy), pytest.param("llama", marks=pytest.mark.heavy)]
)
def test_bfloat16_checkpoint(tmp_path, family):
    """A bf16 file computed in bf16 by both: as far from float32 as transformers' own bf16 is."""
    hf.text_model(family=family).to(torch.bfloat16).save_pretrained(tmp_path)
    # read again: .to() also rounds the rotary frequencies, which are no part of the checkpoint
    model, exact = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
        for dtype in (torch.bfloat16, torch.float32)
    )
    cfg, params = hub.read_config(tmp_path).decoder, hub.load_params(tmp_path)
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 13))
    positions, ones = np.broadcast_to(np.arange(13), (2, 13)), np.ones((2, 13), np.int32)
    half = _run(cfg, params, tokens, positions, ones, "bfloat16")[1]
    theirs, whole = _theirs(model, tokens)[1], _theirs(exact, tokens)[1]
    rounding = float((theirs.float() - whole).abs().max())
    assert half.dtype == jnp.bfloat16
    compare(family, "bfloat16", "states in float32", _run(cfg, params, tokens, positions, ones)[1], whole)
    compare(family, "bfloat16", "states in bfloat16", half.astype(jnp.float32), theirs, 2 * rounding)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tmp_path, side):
    """Also where the length of a row decides its frequencies."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = hf.text_model(family="llama", rope_parameters=dynamic, max_position_embeddings=7)
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).decoder, hub.load_params(tmp_path)
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, cfg.vocab_size, length) for length in (9, 5)]
    tokens, segments = np.zeros((2, 12), np.int32), np.zeros((2, 12), np.int32)
    for row, ids in enumerate(rows):
        part = slice(12 - len(ids), 12) if side == "left" else slice(0, len(ids))
        tokens[row, part], segments[row, part] = ids, 1
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    ours = np.asarray(_run(cfg, params, tokens, positions, segments)[2])
    for row, ids in enumerate(rows):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # it remembers the longest row
        theirs = _theirs(model, ids[None])[2]
        assert hf.max_gap(ours[row][segments[row] > 0], theirs[0]) <= 1e-4


@pytest.mark.parametrize(
    ("sections", "changes"),
    [
        ((2, 1, 1), {}),
        pytest.param((2, 3, 2), dict(hidden_size=42, num_attention_heads=3, num_key_value_heads=1),
                     marks=pytest.mark.heavy),
        pytest.param((1, 1, 3), dict(hidden_size=50, num_attention_heads=5, num_key_value_heads=5),
                     marks=pytest.mark.heavy),
    ],
)  # fmt: skip
def test_mrope(tmp_path, sections, changes):
    """Positions that differ by axis: parity with Qwen2-VL's text model with the weights of a Qwen2."""
    model = hf.text_model(**changes)
    model.save_pretrained(tmp_path)
    cfg = dataclasses.replace(hub.read_config(tmp_path).decoder, mrope_section=sections)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}
    settings = {**model.config.to_dict(), "rope_parameters": rope, "model_type": "qwen2_vl_text"}
    theirs = transformers.Qwen2VLTextModel(transformers.Qwen2VLTextConfig(**settings)).eval()
    theirs.load_state_dict(model.model.state_dict())
    rng = np.random.default_rng(0)
    tokens, positions = rng.integers(0, cfg.vocab_size, (2, 13)), rng.integers(0, 20, (2, 13, 3))
    ours = _run(cfg, hub.load_params(tmp_path), tokens, positions, np.ones((2, 13), np.int32))
    found = _theirs(theirs, tokens, position_ids=torch.tensor(positions).permute(2, 0, 1))
    compare("Qwen2-VL text", str(sections), "block", ours[0], found[0], 1e-5)
    compare("Qwen2-VL text", str(sections), "states", ours[1], found[1])


def test_mrope_of_text_is_plain_and_continues_after_the_largest_position(tmp_path):
    """Forward of text; and a prompt of different axes, continued by the cache as by a whole forward."""
    hf.text_model(hidden_size=24, num_attention_heads=2, num_key_value_heads=1).save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).decoder, hub.load_params(tmp_path)["decoder"]
    axes = dataclasses.replace(cfg, mrope_section=(1, 2, 3))
    plain, decoder = Decoder(cfg), Decoder(axes)
    rng = np.random.default_rng(0)
    tokens, indices = rng.integers(0, 31, (2, 9)), np.broadcast_to(np.arange(9), (2, 9))
    ones, same = np.ones((2, 9), np.int32), axes.text_positions(jnp.asarray(indices))
    mixed = rng.integers(0, 12, (2, 6, 3))
    after = mixed.max(axis=(1, 2))
    rest = np.broadcast_to((after[:, None] + 1 + np.arange(3))[..., None], (2, 3, 3))
    whole = np.concatenate([mixed, rest], axis=1)

    @jax.jit
    def run(params):
        variables = {"params": params}
        x = plain.apply(variables, tokens, method="embed_tokens")
        found = [
            model.apply(variables, x, at, ones, method="hidden")
            for model, at in ((plain, indices), (decoder, same), (decoder, whole))
        ]
        return found

    text, text_axes, forward = run(params)
    np.testing.assert_allclose(text, text_axes, atol=1e-5)  # other loops of the same sums
    assert np.abs(forward - text).max() > 0.1
    with pytest.raises(ValueError, match=r"positions are \[2, 9\]; this decoder takes \[b, n, 3\]"):
        decoder.apply({"params": params}, jnp.zeros((2, 9, 24)), indices, ones, method="hidden")


def test_rows_that_share_a_sequence_have_their_own_dynamic_base():
    scaling = rotary.RopeScaling("dynamic", factor=2.0, original_max_position_embeddings=4)
    positions, segments = np.array([[0, 1, 2, 0, 1, 2, 3, 4, 5, 9]]), np.array([[1, 1, 1, 2, 2, 2, 2, 2, 2, 0]])
    angles = jax.jit(lambda positions, segments: rotary.angles(positions, segments, 8, 1e4, scaling))
    found = angles(positions, segments)
    for row in (slice(0, 3), slice(3, 9)):
        alone = angles(positions[:, row], np.ones_like(positions[:, row]))
        for mine, theirs in zip(found, alone, strict=True):
            np.testing.assert_allclose(mine[:, row], theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(rope_type="longrope"), "'longrope' is unknown; there are: default, linear"),
        (dict(rope_type="linear", factor=0.0), "factor 0.0; it is above 0"),
        (dict(rope_type="yarn", factor=2.0), "needs original_max_position_embeddings"),
        (dict(rope_type="llama3", original_max_position_embeddings=8, low_freq_factor=4.0), "below the second"),
    ],
)
def test_scaling_that_makes_no_sense_is_an_error(values, message):
    with pytest.raises(ValueError, match=message):
        rotary.RopeScaling(**values)


def test_sections_that_do_not_fill_a_head_are_an_error():
    with pytest.raises(ValueError, match=r"mrope_section \(1, 2\) is not three numbers with the sum 4"):
        DecoderConfig(vocab_size=8, width=16, depth=1, heads=2, kv_heads=1, mlp_dim=8, mrope_section=(1, 2))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.heavy_after(1)
def test_the_gradient_of_a_padding_token_in_a_text(tmp_path, tied):
    """As nn.Embedding(padding_idx): none from where it occurs, and of a tied row that of the head; without it, more."""
    model = hf.text_model(tie_word_embeddings=tied, pad_token_id=3)
    assert model.model.embed_tokens.padding_idx == 3
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).decoder, hub.load_params(tmp_path)
    assert cfg.padding_idx == 3
    tokens = np.array([[5, 3, 7, 3, 9]])
    positions, ones = np.arange(5)[None], np.ones((1, 5), np.int32)
    (model(torch.tensor(tokens)).logits ** 2).mean().backward()
    theirs = model.model.embed_tokens.weight.grad

    def gradient(padding_idx):
        own = dataclasses.replace(cfg, padding_idx=padding_idx)
        loss = lambda params: (_run(own, params, tokens, positions, ones)[2] ** 2).mean()  # noqa: E731
        return jax.grad(loss)(params)["decoder"]["embed"]

    compare("qwen2", "tied" if tied else "untied", "gradient of an embedding with a padding token", gradient(3), theirs)
    others = np.arange(cfg.vocab_size) != 3
    assert np.abs(gradient(-1)[3] - gradient(3)[3]).max() > 1e-2 * np.abs(gradient(3)).max()
    assert np.allclose(gradient(-1)[others], gradient(3)[others]) and (tied or (gradient(3)[3] == 0).all())


@pytest.mark.parametrize(("pad", "ours"), [(3, 3), (0, 0), (None, -1), (-1, -1), (10**6, -1)])
def test_the_padding_token_of_a_folder(tmp_path, pad, ours):
    """Imported as nn.Embedding would take it, none where it would reject it; exported whatever the tokenizer says."""
    hf.text_model().save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": pad}))
    cfg, params = hub.read_config(tmp_path / "hf").decoder, hub.load_params(tmp_path / "hf")
    assert cfg.padding_idx == ours
    hub.export_decoder(params, cfg, tmp_path / "out")
    assert hub.read_config(tmp_path / "out").decoder == cfg
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.model.embed_tokens.padding_idx == (None if ours < 0 else ours)
