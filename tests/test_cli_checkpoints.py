"""Checkpoints on the command line: a damaged one is a one-line error before anything is written; inspect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pivot_jax import hub, rules
from pivot_jax.cli import main as cli
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.train import checkpoint
from pivot_jax.train.source import load_params
from tests.tiny import mllm

Q1 = "language_model.model.layers.1.self_attn.q_proj.weight"


def run(*argv: object) -> int:
    return cli.main([str(word) for word in argv])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A LLaVA in shards with its tokenizer, and a config of the same dimensions with missing data."""
    root = tmp_path_factory.mktemp("checkpoints")
    tokenizer = load_tokenizer(train_bpe(["what colour is it? red"], 270, root / "tokenizer"))
    module, params = mllm.tiny_mllm(len(tokenizer))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.save, "SHARD_BYTES", 20_000)
        hub.export_mllm(params, module.config, root / "hf", text=hub.ExportText(tokenizer))
    vision, decoder = module.config.vision, module.config.decoder
    config = {
        "model.vision": {
            name: getattr(vision, name) for name in ("image_size", "patch_size", "width", "depth", "heads")
        },
        "model.vision.mlp_dim": vision.mlp_dim,
        "model.vision.pool_head": False,
        "model.decoder": {
            name: getattr(decoder, name)
            for name in ("vocab_size", "width", "depth", "heads", "kv_heads", "mlp_dim", "rope_theta")
        },
        "data.image.size": vision.image_size,
        "data.sources": ({"format": "llava", "path": "nowhere.json"},),
    }
    (root / "config.py").write_text(f"def get_config(arg=''):\n    return {config!r}\n")
    return root


def shard_of(folder: Path, key: str) -> Path:
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][key]


def change(folder: Path, edit) -> None:
    """Edits the tensors of the shard with Q1, and the index with them."""
    path, index = shard_of(folder, Q1), folder / "model.safetensors.index.json"
    tensors = edit(load_file(path))
    save_file(tensors, path)
    raw = json.loads(index.read_text())
    kept = {key: name for key, name in raw["weight_map"].items() if name != path.name}
    index.write_text(json.dumps({**raw, "weight_map": kept | dict.fromkeys(tensors, path.name)}))


def edit_config(folder: Path, **text) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"].update(text)
    (folder / "config.json").write_text(json.dumps(raw))


def missing_shard(folder):
    shard_of(folder, Q1).unlink()


def truncated(folder):
    path = shard_of(folder, Q1)
    path.write_bytes(path.read_bytes()[:-10])


def no_safetensors(folder):
    shard_of(folder, Q1).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def quantised(folder):
    change(folder, lambda tensors: {**tensors, Q1: np.zeros(tensors[Q1].shape, np.int8)})


def renamed(folder):
    change(
        folder,
        lambda tensors: {key.replace("1.self_attn.q_proj.w", "1.attn.q_proj.w"): x for key, x in tensors.items()},
    )


def extra(folder):
    change(folder, lambda tensors: {**tensors, Q1.replace("q_proj", "z_proj"): tensors[Q1]})


def fewer_layers(folder):
    edit_config(folder, num_hidden_layers=1)


def wider(folder):
    edit_config(folder, intermediate_size=25)


DAMAGE = {
    missing_shard: ".safetensors is missing (model.safetensors.index.json names it)",
    truncated: "is truncated or no safetensors file",
    no_safetensors: "is truncated or no safetensors file",
    quantised: f"'{Q1}' is stored as I8; quantised checkpoints are not read",
    renamed: f"'{Q1}' (our decoder/blocks/attn/q/kernel) is missing; nearest: '{Q1.replace('self_attn', 'attn')}'",
    extra: f"'{Q1.replace('q_proj', 'z_proj')}' is not a parameter of this model; nearest known: '",
    fewer_layers: "is not a parameter of this model; nearest known: ",
    wider: "has shape [24, 16], expected [25, 16]; config.json says",
}


@pytest.mark.parametrize("command", ["import-hf", "train", "inspect"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_is_an_error_before_anything_is_written(world, tmp_path, capsys, damage, command):
    folder, out = tmp_path / "hf", tmp_path / "out"
    shutil.copytree(world / "hf", folder)
    damage(folder)
    argv = {
        "import-hf": ("--folder", folder, "--workdir", out),
        "train": ("--config", world / "config.py", "--workdir", out, f"--config.tokenizer.path={folder}",
                  f"--config.init.=hf:{folder}"),
        "inspect": (folder,),
    }[command]  # fmt: skip
    assert run(command, *argv) == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith(f"pivot-jax {command}: ")]
    assert len(said) == 1 and not any("Traceback" in line for line in lines)
    assert DAMAGE[damage] in said[0]
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_a_folder_of_other_dimensions_than_the_config_s(world, tmp_path, capsys):
    argv = ["--config", world / "config.py", "--workdir", tmp_path / "out", f"--config.init.=hf:{world / 'hf'}"]
    argv += [f"--config.tokenizer.path={world / 'hf'}", "--config.model.decoder.mlp_dim=32"]
    assert run("train", *argv) == 1
    assert "in this config; it is the checkpoint of another model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["import-hf", "train"])
def test_a_tokenizer_of_another_vocabulary(world, tmp_path, capsys, command):
    """One with more tokens than the embedding has rows; for an import also one without the image token."""
    folder, out = tmp_path / "hf", tmp_path / "out"
    shutil.copytree(world / "hf", folder)
    train_bpe(["what colour is it? red, green or a longer text with many other words 0123"], 290, tmp_path / "larger")
    shutil.copytree(tmp_path / "larger", folder, dirs_exist_ok=True)
    argv = ["--workdir", out, *(("--folder", folder) if command == "import-hf" else ("--config", world / "config.py"))]
    if command == "train":
        argv += [f"--config.init.=hf:{folder}", f"--config.tokenizer.path={folder}"]
    assert run(command, *argv) == 1
    err = capsys.readouterr().err
    assert "tokenizer has 2" in err and ("the embedding 2" in err or "model.decoder.vocab_size is 2" in err)
    assert not out.exists()
    if command == "import-hf":
        edit_config(folder, vocab_size=400)
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**raw, "image_token_index": 390}))
        assert run(command, *argv) == 1
        assert "puts images at token 390, which the tokenizer of 2" in capsys.readouterr().err
        assert not out.exists()


def test_a_missing_tokenizer(world, tmp_path, capsys):
    folder, out = tmp_path / "hf", tmp_path / "out"
    shutil.copytree(world / "hf", folder)
    for path in folder.glob("token*"):
        path.unlink()
    assert run("import-hf", "--folder", folder, "--workdir", out) == 1
    error = capsys.readouterr().err
    assert f"--folder: '{folder}' holds no tokenizer" in error and "fetch the tokenizer's files" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_paths_with_a_colon_or_an_at(world, tmp_path, capsys):
    """A run imported from and into such folders starts from them."""
    folder, out = tmp_path / "m:1@2", tmp_path / "w:1@2"
    shutil.copytree(world / "hf", folder)
    assert run("import-hf", "--folder", folder, "--workdir", out) == 0
    init = json.loads((out / "config.json").read_text())["init"][""]
    same = [rules.flatten(load_params(text)) for text in (init, f"run:{out}", f"hf:{world / 'hf'}")]
    for path, leaf in same[0].items():
        np.testing.assert_array_equal(leaf, same[1][path])
        np.testing.assert_array_equal(leaf, same[2][path])


def test_an_imported_run_s_config_starts_from_its_weights(world, tmp_path, capsys):
    """Otherwise further training would silently start from random weights."""
    assert run("import-hf", "--folder", world / "hf", "--workdir", tmp_path / "run") == 0
    init = json.loads((tmp_path / "run" / "config.json").read_text())["init"]
    assert init == {"": f"hf:{world / 'hf'}"}
    same = rules.flatten(load_params(init[""])), rules.flatten(checkpoint.load_run(tmp_path / "run"))
    assert same[0].keys() == same[1].keys()
    for path, leaf in same[0].items():
        np.testing.assert_array_equal(leaf, same[1][path])


def test_inspect(world, tmp_path, capsys):
    """A folder, the run imported from it, and a config with LoRA show the same shapes."""
    assert run("import-hf", "--folder", world / "hf", "--workdir", tmp_path / "run") == 0
    capsys.readouterr()
    shapes = {path: list(x.shape) for path, x in rules.flatten(checkpoint.load_run(tmp_path / "run")).items()}
    seen = {}
    lora = ["--config.lora.rank=4", "--config.lora.targets=(('decoder/blocks/attn/q/kernel', 'lora'), ('.*', 'none'))"]
    for name, argv in {
        "folder": (world / "hf",),
        "run": (f"run:{tmp_path / 'run'}",),
        "config": ("--config", world / "config.py", *lora),
    }.items():
        assert run("inspect", *argv, "--json") == 0
        seen[name] = json.loads(capsys.readouterr().out)
        leaves = {path: leaf["shape"] for path, leaf in seen[name]["leaves"].items() if "lora" not in path}
        assert leaves == shapes, name
        assert seen[name]["parameters"] == sum(leaf["parameters"] for leaf in seen[name]["leaves"].values())
        assert seen[name]["bytes"] == 4 * seen[name]["parameters"]
    assert seen["folder"]["trained"] == []
    moving = [row for row in seen["config"]["trained"] if row["rate"] != "frozen"]
    assert moving == [{"group": "decoder LoRA, rank 4", "parameters": 2 * 4 * (16 + 16), "rate": 1e-3}]
    assert run("inspect", "--config", world / "config.py", *lora) == 0
    text = capsys.readouterr().out
    assert "lora_a  [2, 16, 4]  float32  128" in text and "decoder LoRA, rank 4" in text and "frozen" in text
    assert run("inspect", world / "hf", "--depth", "1") == 0
    assert "blocks" not in capsys.readouterr().out


def test_inspect_counts_only_the_imported_parameters(world, tmp_path, capsys):
    """An encoder without its final layers: the table of trained parameters counts those that the run has."""
    params = hub.load_params(world / "hf")
    del params["vision"]["final"]
    short = tmp_path / "short"
    hub.export_mllm(
        params, hub.read_config(world / "hf").mllm, short, text=hub.ExportText(load_tokenizer(world / "hf"))
    )
    assert run("import-hf", "--folder", short, "--workdir", tmp_path / "run") == 0
    capsys.readouterr()
    assert run("inspect", tmp_path / "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert not any(path.startswith("vision/final/") for path in found["leaves"])
    assert sum(row["parameters"] for row in found["trained"]) == found["parameters"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "name one thing to inspect"),
        (("{w}/tokenizer",), "is not a run, a pack or a Hugging Face folder"),
        (("{w}/hf", "--step", "3"), "--step: only a run has checkpoints"),
        (("{w}/hf", "--config.seed=1"), "--config.seed changes a config; add --config FILE"),
    ],
)
def test_inspect_errors(world, capsys, argv, message):
    assert run("inspect", *(word.format(w=world) for word in argv)) == 1
    assert message in capsys.readouterr().err
