"""The configs of the package: found by name, listed, and copied to be edited."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from pivot_jax import config
from pivot_jax.cli import main as cli
from pivot_jax.config import catalogue
from pivot_jax.config.load import read_file
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.data.sources import read_all
from pivot_jax.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[1] / "configs"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_a_file_or_else_a_config_of_the_package(here):
    assert config.load("pivot/stage3.py:0") == config.load(f"{CHECKOUT}/pivot/stage3.py:0")
    own = here / "pivot" / "stage3.py"
    own.parent.mkdir()
    own.write_text("def get_config():\n    return {'seed': 7}\n")
    assert config.load("pivot/stage3.py").seed == 7


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("pivot/stge1b.py", "pivot/stage1b.py"),
        ("configs/pivot/stage1b.py", "pivot/stage1b.py"),
        ("pivot/stage1b", "pivot/stage1b.py"),
        ("stage2_dpo.py:x", "pivot/stage2_dpo.py"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(here, spec, near):
    with pytest.raises(UserError, match=f"did you mean '{near}'"):
        config.load(spec)


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.name)
def test_every_config_says_what_it_is_and_what_argument_it_takes(entry):
    assert entry.summary.endswith(".")
    scope: dict = {"__file__": str(CHECKOUT / entry.name)}
    exec((CHECKOUT / entry.name).read_text(), scope)
    assert bool(entry.argument) == bool(inspect.signature(scope["get_config"]).parameters)


def test_the_list_has_a_line_for_each(here, capsys):
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for entry in catalogue.entries():
        (line,) = [line for line in lines if line.split()[:1] == [entry.name]]
        assert entry.summary in line and entry.argument in line


def test_the_list_of_a_folder(here, capsys):
    assert cli.main(["configs", "trial"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:] if line.strip()]
    assert names == [name for name in catalogue.names() if name.startswith("trial/")]
    assert cli.main(["configs", "trail"]) == 1
    assert "no config begins with 'trail'" in capsys.readouterr().err


@pytest.mark.parametrize("name", catalogue.names())
def test_a_copy_is_the_same_config(here, name):
    """With the files that it includes and no other, in a folder without the package's."""
    written = catalogue.copy(name, here / "own")
    assert [str(path) for path, _ in written] == [str(path) for path in sorted((here / "own").rglob("*.py"))]
    assert read_file(str(here / "own" / name)) == read_file(name)


def test_a_copy_replaces_no_file(here, capsys):
    copy = ["configs", "--copy", "pivot/stage1b.py"]
    assert cli.main(copy) == 0
    own, common = here / "configs/pivot/stage1b.py", here / "configs/pivot/common.py"
    assert own.exists() and common.exists()
    own.write_text(own.read_text().replace("2e-6", "3e-6"))
    common.write_text(common.read_text().replace('"data.workers": 8', '"data.workers": 2'))
    before = own.read_text(), common.read_text()
    assert cli.main(copy) == 1
    assert "configs/pivot/stage1b.py exists and differs" in capsys.readouterr().err
    assert cli.main(["configs", "--copy", "pivot/stage1a.py"]) == 0
    assert "common.py (kept, with your changes)" in capsys.readouterr().out
    assert (own.read_text(), common.read_text()) == before
    assert config.load("configs/pivot/stage1a.py").data.workers == 2
    assert cli.main(["configs", "--copy", "demo", "--to", "mine"]) == 0
    assert len(list((here / "mine" / "demo").glob("*.py"))) == len(list((CHECKOUT / "demo").glob("*.py")))
    assert cli.main(["configs", "--copy", "demos"]) == 1
    assert "did you mean 'demo'" in capsys.readouterr().err
    assert cli.main(["configs", "--to", "mine"]) == 1
    assert "--copy NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "missing"), [("stage1a", "llava_pretrain_mini/data.json"), ("grpo", "geometry3k_test_overlay/data.jsonl")]
)
def test_a_trial_without_its_data_says_what_to_set(here, monkeypatch, name, missing):
    """Also where the configs are read from another folder than the one above which the data are looked for."""
    monkeypatch.delenv("PIVOT_SHARED_DATA", raising=False)
    loaded = config.load(f"trial/{name}.py")
    words = "the environment variable PIVOT_SHARED_DATA is not set: set it to the folder that holds"
    with pytest.raises(UserError, match=rf"tokenizer.path: .*; {words} qwen2_5_vl_processor$"):
        load_tokenizer(loaded.tokenizer.path)
    with pytest.raises(UserError, match=rf"no such file; {words} {missing}$"):
        read_all(loaded.data.sources)
    monkeypatch.setenv("PIVOT_SHARED_DATA", "/elsewhere")
    assert config.load(f"trial/{name}.py").tokenizer.path == "/elsewhere/qwen2_5_vl_processor"
    with pytest.raises(UserError, match="check 'path' in data.sources"):
        read_all(config.load(f"trial/{name}.py").data.sources)
