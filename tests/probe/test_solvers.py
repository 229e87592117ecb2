"""The solvers of the classification probes against scikit-learn, DINO's kNN in PyTorch, and a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pivot_jax.errors import UserError
from pivot_jax.probe import classification, linear_probe, logistic, neighbours
from pivot_jax.probe.classification import PAPER_GRID, ProbeSettings
from pivot_jax.probe.linear_probe import LinearTraining
from pivot_jax.probe.splits import Chosen, Labelled, Splits

GRID = (*PAPER_GRID, 31.6, 1e3, 1e4)


def encoded(n, classes, d=24, seed=0):
    """Unit-length features with a common mean and a spectrum as steep as an encoder's; class numbers."""
    generator = np.random.default_rng(seed)
    means = np.random.default_rng(9).normal(size=(classes, d)) * (1 + np.arange(d)) ** -0.5
    y = np.arange(n) % classes
    x = means[y] + 0.8 * generator.normal(size=(n, d)) * (1 + np.arange(d)) ** -0.25 + means[0] * 0.5
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def sklearn_fit(x, y, C):
    """To the optimum: on unit-length features of many classes the default tolerance of 1e-4 ends far from it."""
    with threadpool_limits(1):
        return LogisticRegression(C=C, solver="lbfgs", max_iter=5000, tol=1e-7, random_state=0).fit(x.astype(float), y)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_logistic_regression_equals_sklearn_for_every_C(classes):
    x, y = encoded(200, classes)
    test_x, test_y = encoded(4000, classes, seed=1)
    fits = logistic.fit_grid(x, y, GRID[::-1])
    assert [fit.C for fit in fits] == sorted(GRID) and all(fit.converged for fit in fits)
    for fit in fits:
        reference = sklearn_fit(x, y, fit.C)
        ours, theirs = (fit.predict(test_x) == test_y).mean(), reference.score(test_x.astype(float), test_y)
        assert abs(ours - theirs) <= 1e-3, fit.C
        if fit.C <= 3.16:  # beyond, scikit-learn itself is not this close to the optimum
            kernel = (
                reference.coef_.T if classes > 2 else np.concatenate([-reference.coef_.T, reference.coef_.T], 1) / 2
            )
            np.testing.assert_allclose(fit.kernel, kernel, atol=0.01 * np.abs(kernel).max())


def objective(fit, x, y, C):
    logits = x.astype(float) @ fit.kernel + fit.bias
    logits -= logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return C * losses.sum() + 0.5 * (fit.kernel.astype(float) ** 2).sum()


def test_the_objective_is_at_its_minimum_also_where_sklearn_stops_early():
    """Fewer images than dimensions, a constant feature and a class with one image."""
    x, y = encoded(30, 4, d=40)
    x = np.concatenate([x, np.full((30, 1), 0.5, np.float32)], 1)
    y[y == 3] = 2
    y[0] = 3
    for fit in logistic.fit_grid(x, y, (0.01, 1.0, 1e4)):
        reference = sklearn_fit(x, y, fit.C)
        theirs = replace(fit, kernel=reference.coef_.T, bias=reference.intercept_)
        assert objective(fit, x, y, fit.C) <= objective(theirs, x, y, fit.C) * (1 + 1e-4)
        assert np.isfinite(fit.kernel).all()


def test_a_warm_start_changes_no_solution():
    x, y = encoded(150, 5)
    together = {fit.C: fit for fit in logistic.fit_grid(x, y, GRID)}
    for C in (0.1, 31.6):
        (alone,) = logistic.fit_grid(x, y, (C,))
        np.testing.assert_allclose(together[C].kernel, alone.kernel, atol=0.01 * np.abs(alone.kernel).max())


def test_limits_of_the_solver(monkeypatch):
    x, y = encoded(60, 3)
    (fit,) = logistic.fit_grid(x, y, (1e4,), max_iter=1)
    assert fit.iterations == 1 and not fit.converged
    monkeypatch.setattr(logistic, "LARGEST", 100)
    with pytest.raises(UserError, match="60 images of 3 classes are too many .* use the SGD probe"):
        logistic.fit_grid(x, y, (1.0,))


def dino_knn(train_x, train_y, test_x, k, T, classes):
    """``knn_classifier`` of DINO's eval_knn.py, of one batch."""
    similarity = torch.mm(torch.tensor(test_x), torch.tensor(train_x).t())
    distances, indices = similarity.topk(k, largest=True, sorted=True)
    candidates = torch.tensor(train_y).view(1, -1).expand(len(test_x), -1)
    retrieved = torch.gather(candidates, 1, indices)
    one_hot = torch.zeros(len(test_x) * k, classes).scatter_(1, retrieved.reshape(-1, 1), 1)
    weights = distances.clone().div_(T).exp_()
    probs = torch.sum(torch.mul(one_hot.view(len(test_x), -1, classes), weights.view(len(test_x), -1, 1)), 1)
    return probs.argmax(1).numpy()


def test_neighbours_equal_dinos(monkeypatch):
    monkeypatch.setattr(neighbours, "BATCH", 64)  # the last batch is padded
    (x, y), (test_x, _) = encoded(300, 7), encoded(150, 7, seed=1)
    found = neighbours.votes(x, y, test_x, (1, 10, 20, 500))
    assert list(found) == [1, 10, 20]
    for k, ours in found.items():
        np.testing.assert_array_equal(ours, dino_knn(x, y, test_x, k, 0.07, 7))
    with pytest.raises(UserError, match="k = 500: there are 300 training images"):
        neighbours.votes(x, y, test_x, (500,))


@pytest.fixture(scope="module")
def splits():
    return Splits(*(Labelled(*encoded(n, 5, seed=seed)) for seed, n in ((0, 600), (1, 200), (2, 500))))


def test_what_is_chosen_is_chosen_on_val(splits):
    for method, word in (("logistic", "C"), ("knn", "k"), ("sgd", "learning rate")):
        settings = ProbeSettings(method, training=LinearTraining(epochs=5, batch_size=64))
        found = classification.run(splits, settings)
        accuracies = dict(found.grid)
        best = min(value for value, accuracy in accuracies.items() if accuracy == max(accuracies.values()))
        assert found.chosen == f"{word} = {best:g}" if method != "sgd" else found.chosen == f"{word} {best:g}"
        shuffled = replace(splits, test=replace(splits.test, labels=np.roll(splits.test.labels, 7)))
        other = classification.run(shuffled, settings)
        assert other.chosen == found.chosen and np.array_equal(other.predictions, found.predictions)
        assert found.accuracy > 0.5 and not any("TEST" in flag for flag in found.flags)
        with pytest.warns(UserWarning, match="CHOSEN ON TEST: 100%"):
            paper = classification.run(splits, replace(settings, choose_on_test=True))
        assert paper.accuracy == max(accuracy for _, accuracy in paper.grid) >= found.accuracy


@pytest.mark.parametrize("optimizer", linear_probe.OPTIMIZERS)
def test_the_minibatch_probe_reads_from_disk_and_comes_near_the_optimum(splits, tmp_path, optimizer):
    """Features on disk in another order; the same seed gives the same classifier as in memory."""
    train, test = splits.train, splits.test
    order = np.random.default_rng(0).permutation(len(train.labels))
    np.save(tmp_path / "x.npy", train.features[np.argsort(order)])
    on_disk = Chosen(np.load(tmp_path / "x.npy", mmap_mode="r"), order)
    training = LinearTraining(30, 64, (0.01, 0.03, 0.1), optimizer)
    fit = linear_probe.train(on_disk, train.labels, training)
    memory = linear_probe.train(train.features, train.labels, training)
    np.testing.assert_array_equal(fit.kernel, memory.kernel)
    accuracies = (fit.predict(test.features) == test.labels).mean(axis=1)
    best = max((one.predict(test.features) == test.labels).mean() for one in
               logistic.fit_grid(train.features, train.labels, GRID))  # fmt: skip
    assert len(accuracies) == 3 and accuracies.max() > best - 0.03


def test_one_step_of_the_minibatch_probe_is_the_formula():
    """A full batch, one step of SGD from zero: rate · mean of (one-hot − 1/c) xᵀ of standardised features."""
    x, y = encoded(90, 3)
    fit = linear_probe.train(x, y, LinearTraining(1, 90, (0.5, 2.0)))
    standard = (x - x.mean(0)) / (x.std(0) + 1e-6)
    kernel = standard.T @ (np.eye(3)[y] - 1 / 3) / 90
    for rate, ours in zip((0.5, 2.0), fit.kernel, strict=True):
        expected = rate * 90 / 256 * kernel / (x.std(0)[:, None] + 1e-6)
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def test_unknown_settings_are_named():
    with pytest.raises(UserError, match="probe method 'svm' is unknown; choose one of logistic, knn, sgd, prototypes"):
        ProbeSettings("svm")
    with pytest.raises(UserError, match="name one or more numbers above 0"):
        ProbeSettings(grid=(0.0, 1.0))
    with pytest.raises(UserError, match="optimizer 'lion' is unknown"):
        LinearTraining(optimizer="lion")
