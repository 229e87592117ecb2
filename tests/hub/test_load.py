"""Reading checkpoints: every key layout, shards, sharded device arrays, and errors."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from pivot_jax import hub, rules
from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.hub import configs, families, names
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLM, ProjectorConfig, init_params
from pivot_jax.models.vit import ViTConfig
from tests.tiny import hf


def same(a, b) -> None:
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.fixture
def copy(llava, tmp_path):
    """A copy of the LLaVA folder to damage."""
    for path in llava.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def bare(key: str) -> str:
    return re.sub(r"^vision_model\.", "", key)


@pytest.mark.parametrize(
    "prefix",
    ["", "vision_model.", "vision_tower.", "vision_tower.vision_model.", "model.vision_tower.",
     "model.vision_tower.vision_model.", "model.vision_tower.vision_tower.vision_model."],
)  # fmt: skip
def test_siglip_key_layouts(tmp_path, prefix):
    hf.vision_model().save_pretrained(tmp_path)
    expected = hub.load_params(tmp_path)
    hf.rewrite(tmp_path, lambda key: prefix + bare(key))
    same(hub.load_params(tmp_path), expected)


def test_vision_half_of_a_dual_tower(tmp_path):
    vision = hf.vision_model()
    text = dict(hidden_size=24, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    config = transformers.SiglipConfig(text_config=text, vision_config=vision.config.to_dict())
    dual = transformers.SiglipModel(config)
    dual.vision_model.load_state_dict(vision.state_dict())
    vision.save_pretrained(tmp_path / "vision")
    dual.save_pretrained(tmp_path / "dual")
    same(hub.load_params(tmp_path / "dual"), hub.load_params(tmp_path / "vision"))
    assert hub.read_config(tmp_path / "dual").vision == hub.read_config(tmp_path / "vision").vision


def next_code(key: str) -> str:
    """The spelling of LLaVA-NeXT's own code."""
    key = re.sub(r"^vision_tower\.(vision_model\.)?", "model.vision_tower.vision_tower.vision_model.", key)
    for theirs, number in (("linear_1", "0"), ("linear_2", "2")):
        key = key.replace(f"multi_modal_projector.{theirs}", f"model.mm_projector.{number}")
    return key.removeprefix("language_model.")


def in_memory(key: str) -> str:
    """transformers 5 in memory."""
    key = key.replace("language_model.model.", "language_model.").replace("vision_model.", "")
    return key.removeprefix("language_model.") if "lm_head" in key else f"model.{key}"


@pytest.mark.parametrize("spelling", [next_code, in_memory], ids=["llava-next", "transformers 5 in memory"])
def test_llava_key_layouts(llava, copy, spelling):
    hf.rewrite(copy, spelling)
    same(hub.load_params(copy), hub.load_params(llava))


def test_in_memory_spelling_is_the_state_dict(llava):
    model = transformers.LlavaForConditionalGeneration.from_pretrained(llava)
    assert {in_memory(key) for key in load_file(llava / "model.safetensors")} == set(model.state_dict())


@pytest.mark.parametrize("tied", [True, False])
def test_tree_is_the_model_s_own(tmp_path, tied):
    hf.llava_model(text=dict(tie_word_embeddings=tied)).save_pretrained(tmp_path)
    own = jax.eval_shape(lambda: init_params(MLLM(hub.read_config(tmp_path).mllm), jax.random.key(0)))
    loaded = hub.load_params(tmp_path)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), own) == jax.tree.map(lambda x: (x.shape, x.dtype), loaded)


def test_a_head_beside_tied_embeddings(llava, copy):
    """The same values twice are taken; others are another model than config.json says."""
    raw = json.loads((copy / "config.json").read_text())
    raw["tie_word_embeddings"] = raw["text_config"]["tie_word_embeddings"] = True
    (copy / "config.json").write_text(json.dumps(raw))
    with pytest.raises(
        UserError, match="lm_head.weight' differs from .*embed_tokens.weight', but .*tie_word_embeddings"
    ):
        hub.load_params(copy)
    tensors = load_file(copy / "model.safetensors")
    head, embed = (
        next(key for key in tensors if key.endswith(end)) for end in ("lm_head.weight", "embed_tokens.weight")
    )
    save_file({**tensors, head: tensors[embed].copy()}, copy / "model.safetensors", metadata={"format": "pt"})
    assert "head" not in hub.load_params(copy)["decoder"]
    other = tensors[embed].copy()
    other[-1, -1] += 1
    save_file({**tensors, head: other}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="differs from"):
        hub.load_params(copy)


def test_part_of_a_model(llava):
    assert list(hub.load_params(llava, prefix="vision")) == ["vision"]
    assert "final" not in hub.load_params(llava, final=False)["vision"]
    assert list(hub.load_params(llava, prefix="decoder/blocks/mlp")["decoder"]["blocks"]) == ["mlp"]
    with pytest.raises(UserError, match="no parameters at 'text'"):
        hub.load_params(llava, prefix="text")


def test_half_precision_file_and_result(tmp_path):
    model = hf.text_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    params = hub.load_params(tmp_path)["decoder"]
    assert params["embed"].dtype == jnp.float32
    np.testing.assert_array_equal(params["embed"], model.model.embed_tokens.weight.detach().float().numpy())
    assert hub.load_params(tmp_path, dtype=jnp.bfloat16)["decoder"]["embed"].dtype == jnp.bfloat16


def count_rows(monkeypatch) -> dict[str, int]:
    """Key → rows that were read of its tensor, from now on."""
    read: dict[str, int] = {}
    original = hub.shards.Shards.rows

    def counting(self, key, start, out):
        read[key] = read.get(key, 0) + len(out)
        original(self, key, start, out)

    monkeypatch.setattr(hub.shards.Shards, "rows", counting)
    return read


def test_a_process_reads_only_the_rows_of_its_own_devices(llava, monkeypatch):
    """One device's slice, as on a host that holds no other: gate_proj [40, 32], ours [2, 32, 40]."""
    with hub.shards.Shards(llava) as shards:
        found = hub.load.match(shards, hub.read_config(llava))
        filler = hub.fill.Filler(shards, found.file_keys, np.float32)
        entry, wanted = found.entries["decoder/blocks/mlp/gate/kernel"], (range(1, 2), range(8, 16), range(30, 40))
        out, read = np.empty([1, 8, 10], np.float32), count_rows(monkeypatch)
        filler._fill(entry, {wanted: out})
    assert read == {"language_model.model.layers.1.mlp.gate_proj.weight": 10}
    whole = np.asarray(hub.load_params(llava)["decoder"]["blocks"]["mlp"]["gate"]["kernel"])
    np.testing.assert_array_equal(out, whole[1:2, 8:16, 30:40])


def test_shards(llava, copy):
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, copy / name)
    weight_map = {key: name for name, part in parts.items() for key in part}
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    same(hub.load_params(copy), hub.load_params(llava))
    index.write_text(json.dumps({"weight_map": {**weight_map, keys[0]: "model-00002-of-00002.safetensors"}}))
    with pytest.raises(UserError, match=f"says that '{re.escape(keys[0])}' is in model-00002"):
        hub.load_params(copy)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors is missing"):
        hub.load_params(copy)
    index.write_text("{}")
    with pytest.raises(UserError, match="is not a shard index"):
        hub.load_params(copy)


Q0 = "language_model.model.layers.0.self_attn.q_proj.weight"


def test_missing_key_names_the_nearest(copy):
    hf.rewrite(copy, lambda key: key.replace("q_proj", "q_prj") if key == Q0 else key)
    message = (
        rf"'{re.escape(Q0)}' .* is missing; nearest: '{re.escape(Q0.replace('q_proj', 'q_prj'))}' in .*\.safetensors"
    )
    with pytest.raises(UserError, match=message):
        hub.load_params(copy)


def test_extra_key(copy):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    hf.rewrite(copy, config={"text_config": {**text, "num_hidden_layers": 1, "layer_types": None}})
    with pytest.raises(UserError, match=r"layers\.1\..* is not a parameter of this model; nearest known: .*layers\.0"):
        hub.load_params(copy)


def test_shape_mismatch_says_what_config_says(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors[Q0] = tensors[Q0][:-1]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"q_proj.weight' has shape \[31, 32\], expected \[32, 32\]; config.json says"):
        hub.load_params(copy)


def test_one_parameter_under_two_names(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors[in_memory(Q0)] = tensors[Q0]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match="are the same parameter twice"):
        hub.load_params(copy)


def test_quantised_truncated_and_foreign_files(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, Q0: tensors[Q0].astype(np.int8)}, copy / "model.safetensors")
    with pytest.raises(UserError, match="stored as I8; quantised"):
        hub.load_params(copy)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is truncated or no safetensors file"):
        hub.load_params(copy)
    path.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no model.safetensors .* pytorch_model.bin: convert it"):
        hub.load_params(copy)


def test_tied_model_passes_a_stored_head_over_and_untied_needs_it(tmp_path):
    hf.text_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    assert "head" not in hub.load_params(tmp_path)["decoder"]
    hf.rewrite(tmp_path, drop=lambda key: key == "lm_head.weight", config={"tie_word_embeddings": False})
    with pytest.raises(UserError, match=r"'lm_head.weight' \(our decoder/head\) is missing"):
        hub.load_params(tmp_path)


def test_every_pattern_reads_back_what_it_wrote():
    """Each row of each table, on arrays whose axes all differ: to theirs and back is the identity."""

    class Letters(dict):
        def __missing__(self, letter):
            self[letter] = len(self) + 3
            return self[letter]

    sizes = {part: Letters(layers=2) for part in ("vision", "decoder", "projector")}
    everything = (*families.TOWERS.values(), *families.LANGUAGES.values())
    tables = [family.rules for family in everything]
    tables += [family.variant[1] for family in families.TOWERS.values() if family.variant]
    for table in (*tables, families.llava.PROJECTOR):
        found, _ = names.entries(names.Layout(table), sizes)
        for entry in found:
            ours = np.arange(np.prod(entry.our_shape)).reshape(entry.our_shape)
            theirs = hub.tensors._theirs(entry, ours)
            assert theirs.shape == entry.part_shape
            order = [axis for group in entry.groups for axis in group]
            np.testing.assert_array_equal(theirs.transpose(order).reshape(entry.our_shape), ours)


def test_sizes_of_the_papers_projector():
    """From the table alone."""
    vision = ViTConfig(384, 16, 1152, 27, 16, 4304)
    decoder = DecoderConfig(151936, 1536, 28, 12, 2, 8960)
    model = hub.HubModel("llava", vision, decoder, ProjectorConfig())
    found, _ = names.entries(families.layout_of(model), configs.sizes(model))
    count = sum(int(np.prod(e.shape)) for e in found if e.path.startswith("projector/"))
    assert count == 4_131_840


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(copy, dtype, value):
    """Its tensor is named. A large finite weight, which has all exponent bits but one, is not refused."""
    file = copy / "model.safetensors"
    weights = {key: weight.astype(hub.tensors.DTYPES[dtype]) for key, weight in load_file(file).items()}
    key = next(key for key in weights if key.endswith("mlp.up_proj.weight"))
    weights[key][-1, -1] = ml_dtypes.finfo(weights[key].dtype).max
    save_file(weights, file, {"format": "pt"})
    hub.load_params(copy)
    weights[key][-1, -1] = value
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"'{re.escape(key)}' has NaN or infinity; fetch the file again, or import"):
        hub.load_params(copy)
    read = rules.flatten(hub.load_params(copy, allow_non_finite=True))
    assert sum(int((~np.isfinite(leaf)).sum()) for leaf in read.values()) == 1


def test_import_hf_may_be_told_to_read_weights_that_are_not_finite(tmp_path, capsys):
    hf.vision_model().save_pretrained(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).flat[0] = np.nan
    save_file(weights, file, {"format": "pt"})
    command = ["import-hf", "--folder", str(tmp_path / "hf"), "--workdir", str(tmp_path / "pack")]
    assert cli.main(command) == 1 and "has NaN or infinity" in capsys.readouterr().err
    assert not (tmp_path / "pack").exists()
    assert cli.main([*command, "--allow-non-finite"]) == 0 and (tmp_path / "pack").is_dir()
