"""A task's generation settings: followed, an error, or said to have no effect."""

from __future__ import annotations

import pytest

from pivot_jax.adapters import generation
from pivot_jax.adapters.model import Limits
from pivot_jax.errors import UserError
from pivot_jax.rollout.engine import Sampling

NO_EFFECT = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        ({"temperature": None, "top_p": None}, {}),
        ({"temperature": 0, "top_p": 0, "top_k": 1, "min_p": 0.2, "do_sample": True}, {}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": "0.7", "top_p": 0.9, "top_k": 5}, {"temperature": 0.7, "top_p": 0.9, "top_k": 5}),
        ({"temperature": 0.5, "min_p": 0.1}, {"temperature": 0.5, "min_p": 0.1}),
    ],
)
def test_sampling(options, changes):
    """By names that both a request's limits and the engine have."""
    found = generation.sampling(options)
    assert found == NO_EFFECT | changes
    assert Limits(8, **found).min_p == Sampling(8, **found).min_p


@pytest.mark.parametrize("key", generation.NEUTRAL)
def test_what_cannot_be_followed_is_an_error_that_names_it(key):
    (neutral,) = generation.NEUTRAL[key]
    generation.check({key: neutral}, (), "task t", "add")
    generation.check({key: None}, (), "task t", "add")
    other = neutral + 2 if isinstance(neutral, int) else [3]
    with pytest.raises(UserError) as error:
        generation.check({key: other}, (), "task t", "add")
    assert str(error.value) == f"task t: {key} is {other}, which is not supported; add {key}={neutral}"


def test_what_has_no_effect_is_said_once_a_task(caplog):
    for task in ("one", "one", "two"):
        generation.check({"seed": 3, "until": "x", "temperature": 1.0, "num_beams": 1}, {"until"}, task, "add")
    assert caplog.messages == [f"{task}: generation_kwargs seed have no effect here" for task in ("one", "two")]
