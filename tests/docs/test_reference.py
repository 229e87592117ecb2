"""The generated reference has every key and every option."""

from __future__ import annotations

import argparse
import importlib
import re
import sys

import pytest

from pivot_jax.cli.arguments import build_parser
from tests.docs.pages import ROOT

base = importlib.import_module("pivot_jax.config.base")


@pytest.fixture(scope="module")
def made():
    """The modules that make the pages."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        yield importlib.import_module("config_pages"), importlib.import_module("command_pages")
    finally:
        sys.path.pop(0)


def leaves(section, prefix=""):
    """Dotted keys that take a value."""
    for name, value in section.items():
        if hasattr(value, "items") and len(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_config_key_is_there_once_with_its_default(made):
    config_pages, _ = made
    text = "\n".join(config_pages.pages().values())
    shown = re.findall(r"^\*\*`([\w.]+)`\*\*", text, re.MULTILINE)
    assert sorted(shown) == sorted(leaves(base.base())) and len(shown) > 200
    assert (
        "**`data.packing`**{ #key-data-packing } default `1` · int · at least 1<br>Rows that share a sequence" in text
    )
    assert "one of `'none'`, `'dots'`, `'full'`" in text
    groups = [key for key in config_pages.all_keys() if key.is_group]
    assert {"model.vision", "rl.vllm", "data.image"} <= {key.path for key in groups}


def test_most_keys_say_what_they_mean(made):
    config_pages, _ = made
    bare = [key.path for key in config_pages.all_keys() if not key.text and not key.is_group]
    sizes = re.compile(r".*\.(width|depth|heads|mlp_dim|b2|eps|scan_layers|temperature|top_p)")
    assert not [path for path in bare if not sizes.fullmatch(path)]


def test_every_command_and_option_is_there(made):
    _, command_pages = made
    (text,) = command_pages.pages().values()

    def walk(name: str, parser: argparse.ArgumentParser) -> None:
        kinds = command_pages.children(parser)
        for kind, child in kinds.items():
            assert re.search(rf"^##+ {re.escape(f'{name} {kind}')}$", text, re.MULTILINE), f"{name} {kind}"
            walk(f"{name} {kind}", child)
        for action in () if kinds else parser._actions:
            for option in action.option_strings if action.dest != "help" else ():
                assert option in text, f"{name} {option}"

    walk("pivot-jax", build_parser("0"))
    assert "%(default)" not in text
