"""Config files, overrides, and the errors for wrong ones."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pivot_jax import config
from pivot_jax.errors import UserError


def write(tmp_path: Path, body: str, head: str = "def get_config(arg=''):") -> str:
    path = tmp_path / "run.py"
    path.write_text(f"{head}\n    {body}\n")
    return str(path)


def test_base_is_valid_and_locked():
    base = config.base()
    config.validate(base)
    with pytest.raises(AttributeError):
        base.model.vision.widht = 3


def test_file_argument_and_override_order(tmp_path):
    spec = write(tmp_path, "return {'seed': 3, 'name': arg, 'data': {'batch_size': 8}}")
    loaded = config.load(f"{spec}:hello", {"data.batch_size": "32", "optimizer.clip": "2", "data.shuffle": "false"})
    assert (loaded.seed, loaded.name, loaded.data.batch_size) == (3, "hello", 32)
    assert loaded.optimizer.clip == 2.0 and isinstance(loaded.optimizer.clip, float)
    assert loaded.data.shuffle is False


def test_a_changed_file_is_read_again_and_nothing_is_written_beside_it(tmp_path, monkeypatch):
    """Python's import would take the bytecode of the old file: the size and the second of the change are the same."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for seed in (3, 5):
        spec = write(tmp_path, f"return {{'seed': {seed}}}")
        os.utime(spec, (0, 0))
        assert config.load(spec).seed == seed
    assert [path.name for path in tmp_path.iterdir()] == ["run.py"]


def test_file_may_return_the_whole_base(tmp_path):
    spec = write(tmp_path, "c = base(); c.seed = 5; return c", "from pivot_jax.config import base\ndef get_config():")
    assert config.load(spec).seed == 5


def test_include_reads_a_neighbour(tmp_path):
    (tmp_path / "common.py").write_text(
        "def get_config(arg=''):\n    return {'model': {'decoder': {'depth': int(arg)}}}\n"
    )
    head = "from pivot_jax.config import include\ndef get_config():"
    assert config.load(write(tmp_path, "return include(__file__, 'common.py:7')", head)).model.decoder.depth == 7


def test_tuples_free_keys_and_entries(tmp_path):
    spec = write(tmp_path, "return {'data': {'sources': ({'format': 'llava', 'path': 'a'},)}}")
    loaded = config.load(
        spec,
        {
            "data.buckets": "((64, 32), (128, 64))",
            "init.vision": "hf:/models/siglip:vision",
            "init.projector/fc1": "pack:/p",
            "data.sources.0.path": "b",
            "optimizer.rules": "(('vision/.*', 'frozen'), ('.*', 1e-4))",
        },
    )
    assert loaded.data.buckets == ((64, 32), (128, 64))
    assert loaded.init.to_dict() == {"vision": "hf:/models/siglip:vision", "projector/fc1": "pack:/p"}
    assert loaded.data.sources == ({"format": "llava", "path": "b"},)
    again = config.from_json(config.to_json(loaded))
    assert again == loaded and config.fingerprint(again) == config.fingerprint(loaded)


def test_an_entrys_value_may_be_a_tuple_on_the_command_line(tmp_path):
    spec = write(tmp_path, "return {'data': {'sources': ({'format': 'scenes_tasks'},)}}")
    loaded = config.load(spec, {"data.sources.0.tasks": "(('count', 1.0),)"})
    assert loaded.data.sources[0]["tasks"] == (("count", 1.0),)


def test_an_empty_init_starts_from_none_of_the_files_sources(tmp_path):
    path = tmp_path / "run.py"
    path.write_text("def get_config(): return {'init': {'': 'run:a'}}\n")
    assert config.load(str(path)).init.to_dict() == {"": "run:a"}
    assert config.load(str(path), {"init": "{}"}).init.to_dict() == {}
    assert config.load(str(path), {"init": "{}", "init.vision": "hf:b"}).init.to_dict() == {"vision": "hf:b"}


def test_an_empty_source_is_removed_from_init(tmp_path):
    spec = write(tmp_path, "return {'init': {'': 'run:a', 'vision': 'hf:b'}}")
    assert config.load(spec, {"init.": ""}).init.to_dict() == {"vision": "hf:b"}
    assert config.load(spec, {"init.vision": ""}).init.to_dict() == {"": "run:a"}


def test_a_number_reaches_into_a_rule(tmp_path):
    spec = write(tmp_path, "return {'optimizer.rules': (('vision/.*', 'frozen'), ('.*', 1e-4))}")
    loaded = config.load(spec, {"optimizer.rules.0.1": "1e-5", "optimizer.rules.1.0": "decoder/.*"})
    assert loaded.optimizer.rules == (("vision/.*", 1e-5), ("decoder/.*", 1e-4))
    assert config.load(spec, {"optimizer.rules.1.1": "frozen"}).optimizer.rules[1] == (".*", "frozen")


def test_the_entry_of_a_dict_has_the_type_of_its_value(tmp_path):
    spec = write(
        tmp_path, "return {'data.sources': ({'format': 'llava', 'path': 'a'},), 'rl.rewards': ({'name': 'math'},)}"
    )
    loaded = config.load(spec, {"data.sources.0.path": "7", "data.sources.0.seed": "3", "rl.rewards.0.weight": "0.5"})
    assert loaded.data.sources[0] == {"format": "llava", "path": "7", "seed": 3}
    assert loaded.rl.rewards[0]["weight"] == 0.5


@pytest.mark.parametrize("body", ["return {'seed': sed}", "return {"])
def test_the_line_of_an_error_in_a_file_given_by_a_relative_path(tmp_path, monkeypatch, body):
    write(tmp_path, body)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^run.py:2: "):
        config.load("run.py")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.stepz", "5", r"train.stepz: unknown key; did you mean 'train.steps'\?"),
        ("modle.vision.width", "5", r"modle.vision.width: unknown key; did you mean 'model.vision.width'\?"),
        ("seed", "many", r"seed: 'many' \(str\) is not allowed; it must be of type int, such as 0"),
        ("seed", "1.5", r"seed: 1.5 \(float\) is not allowed"),
        ("data.shuffle", "1", r"data.shuffle: '1' \(str\) is not allowed; it must be of type bool"),
        ("objective.reference", "stpe", r"'stpe' is not allowed \(allowed: stored, step\); did you mean 'step'"),
        ("stage", "sft", "stage: this key no longer exists; objective.name is the key"),
        ("objective.gamma", "0.5", r"objective.gamma: this key no longer exists; it is a term now: objective.terms="),
        ("objective.terms", "('sigmoid', 1.0)", r"objective.terms: 'sigmoid' is not a pair \(loss, weight above 0\)"),
        ("objective.terms", "(('sft', 0),)", r"objective.terms: \('sft', 0\) is not a pair"),
        ("train.accumulate", "0", "train.accumulate: 0 is not allowed; it must be at least 1"),
        ("train.accumulate", "3", "train.accumulate: 3 does not divide data.batch_size=16"),
        ("model", "x", "model: this key is a group of others and takes no value"),
        ("data.image.size", "64", "data.image.size: 64 differs from model.vision.image_size=32"),
        ("model.vision.patch_size", "50", "model.vision.patch_size: 50 is larger than"),
        ("data.buckets", "((128, 8), (64, 8))", "list them from small to large"),
        ("data.buckets", "((4096, 8),)", "more than data.max_length=2048"),
        ("data.buckets", "(64, 8)", "64 is not a pair"),
        ("data.sources", "({'path': 'x'},)", "data.sources.0: .* is not a dict with a 'format'"),
        ("data.sources.0.path", "x", "data.sources.0.path: no such entry of data.sources; it is empty"),
        ("optimizer.rules", "(('vision/(', 1.0),)", "not a regular expression"),
        ("optimizer.rules", "(('.*', 'freeze'),)", "allowed: a learning rate of at least 0, or 'frozen'"),
        ("optimizer.rules", "()", "optimizer.rules: empty"),
        ("optimizer.rules.2.1", "0.1", "optimizer.rules.2.1: no such entry of optimizer.rules; its only entry is 0"),
        ("optimizer.rules.0.1.0", "0.1", "optimizer.rules.0.1 is .*, which has no entries"),
        ("optimizer.rules.0.1", "freeze", "allowed: a learning rate of at least 0, or 'frozen'"),
        ("init.vision", "", "init.vision: empty, which removes an entry, but there is no such one"),
        ("init.vision", "/models/siglip", "init.vision: '/models/siglip' is not a weight source"),
        ("optimizer.rules", "(('.*', 1e999),)", "'.*' has inf; allowed"),
        ("optimizer.clip", "1e999", "optimizer.clip: inf is not allowed; it must be a finite number"),
        ("seed", "4294967296", "at least 0 and below 2\\^32"),
        ("eval.max_new_tokens", "65537", "at most 65536"),
        ("parallel.fsdp", "-1", "parallel: data and fsdp are -1"),
    ],
)
def test_refusals_name_key_value_and_mend(tmp_path, key, value, says):
    with pytest.raises(UserError, match=says) as caught:
        config.load(write(tmp_path, "return {}"), {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return {'data': {'batchsize': 3}}", "run.py: data.batchsize: unknown key; did you mean 'data.batch_size'"),
        ("return 3", "get_config returned 3; it must return a dict"),
        ("return {", "run.py:2: "),
        ("from pivot_jax.config import base; c = base(); c.sed = 3", 'run.py:2: .*"sed".*"seed"'),
        ("return {'seed': sed}", "run.py:2: NameError: name 'sed' is not defined"),
        ("import nothing_here", "run.py:2: ModuleNotFoundError"),
        ("return {'init': 'run:x'}", "run.py: init: 'run:x' is not a dict"),
    ],
)
def test_broken_files(tmp_path, body, says):
    with pytest.raises(UserError, match=says) as caught:
        config.load(write(tmp_path, body))
    assert "\n" not in str(caught.value)


def test_missing_file_and_unwanted_argument(tmp_path):
    spec = write(tmp_path, "return {}", "def get_config():")
    with pytest.raises(UserError, match="takes no argument; leave out ':7'"):
        config.load(f"{spec}:7")
    with pytest.raises(UserError, match="no such config file; did you mean '.*run.py'"):
        config.load(str(tmp_path / "rum.py"))
    with pytest.raises(UserError, match="not a config"):
        config.load("demo")
    (tmp_path / "none.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="no function get_config"):
        config.load(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="config.json:1: not JSON"):
        config.from_json("{")


def test_fingerprint_ignores_execution_only(tmp_path):
    spec = write(tmp_path, "return {}")
    plain = config.load(spec)
    same = {"train.log_every": 1, "parallel.fsdp": 2, "train.accumulate": 4, "model.vision.remat": "full", "name": "x"}
    assert config.fingerprint(plain) == config.fingerprint(config.load(spec, same))
    other = config.load(spec, {"optimizer.clip": 0.5, "init.vision": "run:a"})
    assert config.fingerprint(plain) != config.fingerprint(other)
    assert config.differences(plain, other) == ["optimizer.clip: 1.0 → 0.5", "init.vision: '(absent)' → 'run:a'"]
    assert config.differences(plain, config.load(spec, same)) == []


def test_tiles_and_newline_come_together():
    tiled = config.base()
    config.merge(tiled, {"data.image.max_tiles": 4})
    with pytest.raises(UserError, match=r"data\.image\.max_tiles: 4 needs model\.projector\.newline=true"):
        config.validate(tiled)
    config.merge(tiled, {"model.projector.newline": True})
    config.validate(tiled)
    config.merge(tiled, {"data.image.max_tiles": 1})
    with pytest.raises(UserError, match=r"model\.projector\.newline: true, but an image of one square"):
        config.validate(tiled)


@pytest.mark.parametrize(
    ("stage", "objective", "name", "terms"),
    [
        ("contrastive", {"name": "sft", "gamma": 0.0}, "contrastive", ()),
        ("sft", {"name": "sft", "gamma": 0.0}, "sft", ()),
        ("preference", {"name": "dpo", "gamma": 0.0}, "dpo", ()),
        ("preference", {"name": "dpo", "gamma": 0.3}, "dpo", (("sigmoid", 1.0), ("sft", 0.3))),
        ("preference", {"name": "mpo", "gamma": 0.3}, "mpo", ()),  # which did not read gamma
        (
            "preference",
            {"name": "dpo", "terms": [["bco", 2.0], ["sft", 1.0]]},
            "dpo",
            (("bco_pair", 2.0), ("sft", 1.0)),
        ),
    ],
)
def test_a_run_of_an_earlier_version_opens(tmp_path, stage, objective, name, terms):
    content = json.loads(config.to_json(config.base()))
    for new in ("terms", "bco_shift", "ld_alpha"):
        del content["objective"][new]
    content["objective"] |= objective
    content["data"]["pack"] = 4
    del content["data"]["packing"]
    text = json.dumps({"stage": stage, **content})
    opened = config.from_json(text)
    assert opened.data.packing == 4
    assert (opened.objective.name, opened.objective.terms) == (name, terms)
    (tmp_path / "config.json").write_text(text)
    assert config.load(str(tmp_path / "config.json")) == opened == config.from_json(config.to_json(opened))


def test_retired_keys_in_a_config_file_are_named(tmp_path):
    with pytest.raises(UserError, match="run.py: stage: this key no longer exists; objective.name is the key"):
        config.load(write(tmp_path, "return {'stage': 'sft'}"))
