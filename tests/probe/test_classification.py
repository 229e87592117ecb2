"""The logistic probe is scikit-learn's, C is not chosen on what is reported, prototypes are flagged."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pivot_jax.errors import UserError
from pivot_jax.probe import classification
from pivot_jax.probe.splits import Labelled, Splits


def blobs(n, d=12, classes=4, spread=1.6, seed=0):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    y = generator.integers(0, classes, n)
    return (centres[y] + spread * generator.normal(size=(n, d))).astype(np.float32), y


@pytest.fixture(scope="module")
def splits():
    return Splits(*(Labelled(*blobs(n, seed=seed)) for n, seed in ((240, 1), (120, 2), (400, 3))))


def unit(x):
    return x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("C", classification.PAPER_GRID)
def test_linear_probe_equals_sklearn(splits, C):
    train, test = splits.train, splits.test
    reference = LogisticRegression(C=C, solver="lbfgs", max_iter=1000, random_state=0)
    reference.fit(unit(train.features), train.labels)
    result = classification.probe(splits, grid=(C,))
    assert abs(result.accuracy - reference.score(unit(test.features), test.labels)) <= 1e-3
    assert result.C == C and result.accuracy == result.correct.mean()


def test_balanced_sampler_draws_classes_equally():
    labels = np.repeat([0, 1, 2], [60, 200, 75])
    picked = classification.balanced(labels, 50, seed=3)
    assert np.bincount(labels[picked]).tolist() == [50, 50, 50] and len(set(picked)) == 150
    assert np.array_equal(picked, classification.balanced(labels, 50, seed=3))
    assert not np.array_equal(picked, classification.balanced(labels, 50, seed=4))
    with pytest.raises(UserError, match="class 0 has 60 examples, not 61"):
        classification.balanced(labels, 61)


def test_C_is_chosen_on_val_only(splits):
    result = classification.probe(splits)
    accuracies = dict(result.grid)
    assert min(C for C, a in accuracies.items() if a == max(accuracies.values())) == result.C
    assert result.flags == ()
    # Other test labels cannot change the choice.
    shuffled = classification.probe(replace(splits, test=replace(splits.test, labels=np.roll(splits.test.labels, 7))))
    assert shuffled.C == result.C and np.array_equal(shuffled.predictions, result.predictions)
    assert result.interval.low < result.accuracy < result.interval.high


def test_wide_grid_matters_on_unit_features(splits):
    # The paper's largest C regularises unit-length features so heavily that the choice lies at the grid's end.
    paper = classification.probe(splits, grid=classification.PAPER_GRID[:3])
    assert any("end of the grid" in flag for flag in paper.flags)


def test_choosing_on_the_reported_split_is_flagged(splits):
    with pytest.warns(UserWarning, match="CHOSEN ON TEST: 100%"):
        result = classification.probe(replace(splits, val=splits.test), grid=(1.0,))
    assert any(flag.startswith("CHOSEN ON TEST") for flag in result.flags)


def test_prototypes_flag_train_equals_val(splits):
    train, test = splits.train, splits.test
    with pytest.warns(UserWarning, match="TRAIN IS TEST: 100%"):
        same = classification.prototypes(test, test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disjoint = classification.prototypes(train, test)
    assert same.flags and not disjoint.flags
    assert same.accuracy != disjoint.accuracy


def test_prototypes_of_the_same_set_overstate_accuracy(splits):
    # With as many dimensions as images, prototypes built on the scored images look good on pure noise.
    generator = np.random.default_rng(0)
    noise, labels = generator.normal(size=(60, 200)), np.arange(60) % 10
    fresh = generator.normal(size=(60, 200))
    with pytest.warns(UserWarning):
        same = classification.prototypes(Labelled(noise, labels), Labelled(noise, labels))
    assert same.accuracy > 0.9
    assert classification.prototypes(Labelled(fresh, labels), Labelled(noise, labels)).accuracy < 0.4


def test_bad_input_names_the_split(splits):
    train, val, test = splits.train, splits.val, splits.test
    with pytest.raises(UserError, match="val split has features"):
        classification.probe(replace(splits, val=replace(val, labels=val.labels[:-1])))
    with pytest.raises(UserError, match="test features hold NaN"):
        classification.probe(replace(splits, test=replace(test, features=np.full_like(test.features, np.nan))))
    with pytest.raises(UserError, match="one class only"):
        classification.probe(replace(splits, train=replace(train, labels=np.zeros_like(train.labels))))
