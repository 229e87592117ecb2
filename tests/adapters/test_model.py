"""Requests of a toolkit, with limits of their own each, answered by a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pivot_jax.adapters import model as adapters
from pivot_jax.adapters.model import Limits, Request, ToolkitModel
from pivot_jax.data.example import Example, Message
from pivot_jax.errors import UserError
from tests.tiny import commands, runs


@pytest.fixture(scope="module")
def folder() -> Path:
    """Read only."""
    return runs.once("commands", commands.draw)


def example(folder: Path, index: int) -> Example:
    return Example(str(index), (Message("user", commands.QUESTION),), (str(folder / f"{index}.png"),))


def test_answers_are_in_the_order_of_the_requests_and_follow_their_limits(folder, monkeypatch):
    model = ToolkitModel(workdir=str(folder / "run"), batch_size=2)
    made = []

    def make(index: int) -> Example:
        made.append(index)
        return example(folder, index)

    kinds = (Limits(4), Limits(1), Limits(4, temperature=1.0))
    asked = [Request(partial(make, index), kinds[index % 3]) for index in range(8)]
    monkeypatch.setattr(adapters, "KEPT", 2)
    replies = model.answer(asked, "test")
    assert made == [0, 3, 6, 1, 4, 7, 2, 5]
    for kind, limits in enumerate(kinds):
        own = range(kind, 8, 3)
        alone = model.answerer.answer(
            [example(folder, index) for index in own], limits.max_new_tokens, temperature=limits.temperature
        )
        assert [replies[index] for index in own] == alone
    assert len({reply.text for reply in replies}) > 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "name one of workdir=DIR"),
        ({"workdir": "{run}", "weights": "run:{run}"}, "name one of workdir=DIR"),
        ({"weights": "run:{run}", "step": 3}, "write weights=run:DIR@STEP"),
        ({"workdir": "{run}", "step": 2}, "2"),
        ({"weights": "pack:{pack}"}, "is not a whole model"),
    ],
)
def test_wrong_arguments(folder, tmp_path, arguments, says):
    if "pack" in arguments.get("weights", ""):
        assert commands.run("extract", "--workdir", folder / "run", "--out", tmp_path / "pack") == 0
    names = {"run": folder / "run", "pack": tmp_path / "pack"}
    filled = {key: one.format(**names) if isinstance(one, str) else one for key, one in arguments.items()}
    with pytest.raises(UserError, match=says):
        ToolkitModel(**filled)


def test_a_checkpoint_and_a_source_can_be_named(folder):
    named = ToolkitModel(workdir=str(folder / "run"), step=3)
    assert named.opened.identity == ToolkitModel(weights=f"run:{folder / 'run'}").opened.identity
