"""Runs of preference objectives that read other rows than DPO, or no reference model: KTO and SimPO."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.train import reference, setup
from pivot_jax.train import run as run_module
from pivot_jax.train.run import run
from tests.train.conftest import source
from tests.train.test_resume import trace


@pytest.fixture(scope="module")
def labelled(world, tmp_path_factory):
    """The pairs of the world as TRL's unpaired rows: every answer with its label."""
    rows = []
    for pair in json.loads((world / "pairs.json").read_text()):
        for name, label in (("chosen", True), ("rejected", False)):
            prompt = [{"role": "user", "content": pair["prompt"]}]
            rows.append({"prompt": prompt, "completion": pair[name], "label": label, "images": [pair["image"]]})
    path = tmp_path_factory.mktemp("labelled") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"format": "trl", "path": str(path), "image_root": str(world)}


@pytest.mark.heavy
def test_kto_trains_on_answers_with_a_label(labelled, make_config, tmp_path):
    """Stored log-probs are those of the step, packed rows those of rows alone, and the loss falls."""
    base = dict(objective__name="kto", data__sources=(labelled,), train__steps=3, optimizer__rules=((".*", 5e-3),))
    variants = {
        "stored": dict(train__steps=20, objective__desirable_weight=1.2),
        "step": dict(objective__reference="step", objective__desirable_weight=1.2, optimizer__schedule="cosine"),
        "packed": dict(data__packing=2, objective__desirable_weight=1.2),
    }
    constant = dict(optimizer__schedule="constant")
    for name, changes in variants.items():
        run(make_config(**(base | changes | constant)), tmp_path / name)
    stored, step, packed = (trace(tmp_path / name) for name in variants)
    for other in (step, packed):
        for mine, theirs in zip(stored, other, strict=False):
            for key in ("loss", "losses/kto", "kl", "rewards/chosen", "rewards/rejected", "grad_norm"):
                np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=key)
    # at the reference the loss is half the mean weight; here with 8 answers in a batch
    assert stored[0]["kl"] == 0 and abs(stored[0]["losses/kto"] - 0.55) < 0.06
    assert np.mean([row["loss"] for row in stored[-5:]]) < stored[0]["loss"] - 0.01
    assert stored[-1]["rewards/chosen"] > stored[-1]["rewards/rejected"]
    assert "rewards/accuracies" not in stored[0]


def test_kto_takes_pairs_as_two_answers(world, make_config, tmp_path):
    config = make_config(objective__name="kto", data__sources=(source(world, "next_dpo"),), train__steps=1)
    run(config, tmp_path / "run")
    (first,) = trace(tmp_path / "run")
    np.testing.assert_allclose(first["loss"], 0.5, atol=1e-6)  # 8 desirable and 8 undesirable answers, r = 0
    assert np.isfinite(first["logps/chosen"]) and np.isfinite(first["logps/rejected"])


def test_kto_with_micro_batches_is_an_error(labelled, make_config, tmp_path):
    config = make_config(objective__name="kto", data__sources=(labelled,), train__accumulate=2)
    with pytest.raises(
        UserError, match="train.accumulate: 2, but objective.name='kto' compares each row with the whole"
    ):
        run(config, tmp_path / "run")


def test_dpo_on_answers_with_a_label_names_the_row_and_what_it_lacks(labelled, make_config, tmp_path):
    config = make_config(objective__name="dpo", data__sources=(labelled,))
    with pytest.raises(UserError, match="needs 'chosen' and 'rejected'"):
        run(config, tmp_path / "run")


@pytest.mark.heavy
def test_simpo_neither_loads_nor_scores_a_reference(world, make_config, tmp_path, monkeypatch):
    """Not when it starts, and not when it resumes; a reference setting is then an error."""
    made = []
    monkeypatch.setattr(reference, "stored", lambda *args: pytest.fail("reference log-probs were computed"))
    monkeypatch.setattr(run_module, "starting_params", lambda *args: made.append(1) or setup.starting_params(*args))
    pairs = dict(objective__name="simpo", objective__beta=2.0, data__sources=(source(world, "next_dpo"),))
    run(make_config(**pairs, train__steps=2), tmp_path / "run")
    assert len(made) == 1
    made.clear()
    run(make_config(**pairs, train__steps=2), tmp_path / "run")  # finished: restores the state and does no more
    assert not made and not (tmp_path / "run" / reference.FILE).exists()
    with pytest.raises(UserError, match="objective.reference: 'step', but no loss of simpo reads it"):
        run(make_config(**pairs, objective__reference="step"), tmp_path / "other")
