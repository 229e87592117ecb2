"""Union labels, macro recall over classes with positives, the MLP head; and mean IoU on majority labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.probe import heads, segmentation
from pivot_jax.probe.heads import Training
from pivot_jax.probe.splits import Labelled, Splits

FAST = Training(epochs=12, batch_size=8, learning_rate=5e-3, final_learning_rate=5e-4, hidden=64)


def test_patch_labels_by_union_and_by_majority():
    mask = np.zeros((1, 4, 4), int)
    mask[0, :2, :2] = [[0, 5], [0, 0]]  # {0, 5} -> {5}
    mask[0, :2, 2:] = 0  # {0} -> {0}
    mask[0, 2:, :2] = [[2, 3], [3, 3]]  # {2, 3} -> {2, 3}
    mask[0, 2:, 2:] = [[1, 1], [0, 0]]  # tie in pixels: {1}, majority the smaller id
    counts = segmentation.pixel_counts(mask, 4, 6)
    union = segmentation.union_labels(counts)
    assert [set(np.flatnonzero(row)) for row in union[0]] == [{5}, {0}, {2, 3}, {1}]
    assert segmentation.majority_labels(counts).tolist() == [[0, 0, 3, 0]]


def test_macro_recall_ignores_absent_classes():
    true = np.zeros((1, 4, 3), bool)
    true[0, :3, 0] = True
    true[0, 3, 1] = True  # class 2 never occurs
    predicted = np.zeros((1, 1, 4, 3), bool)
    predicted[0, 0, 0, 0] = predicted[0, 0, 3, 1] = predicted[0, 0, :, 2] = True
    hits = segmentation.union_hits(predicted, true)
    assert segmentation.recall_of(hits.sum(1))[0] == pytest.approx((1 / 3 + 1) / 2)


def test_segmentation_head_is_an_mlp_of_d_1024_C():
    keys = jnp.stack([jax.random.key(0)])
    params = heads._init("mlp", Training().hidden, 20, 7, keys)
    assert jax.tree.map(lambda x: x.shape[2:], params) == {
        "fc": {"kernel": (20, 1024), "bias": (1024,)},
        "out": {"kernel": (1024, 7), "bias": (7,)},
    }


def test_iou_equals_sklearn_and_leaves_ignored_patches_out():
    from sklearn.metrics import jaccard_score

    generator = np.random.default_rng(0)
    true, predicted = generator.integers(-1, 4, (5, 9)), generator.integers(0, 4, (2, 5, 9))
    iou = segmentation.per_class_iou(segmentation.overlaps(predicted, true, 5).sum(1))
    kept = true != segmentation.IGNORE
    for seed in range(2):
        reference = jaccard_score(true[kept], predicted[seed][kept], labels=range(4), average=None)
        np.testing.assert_allclose(iou[seed, :4], reference, rtol=1e-6)
    assert np.isnan(iou[:, 4]).all()  # class 4 is nowhere


def world(n, noise, seed, classes=3, side=4, cell=4):
    """Masks of random patch classes (a few patches mixed), features that name the class through a fixed matrix."""
    generator = np.random.default_rng(seed)
    grid = generator.integers(0, classes, (n, side, side))
    masks = np.kron(grid, np.ones((1, cell, cell), int))
    code = np.random.default_rng(5).normal(size=(classes, 10))
    x = code[grid.reshape(n, -1)] + noise * generator.normal(size=(n, side * side, 10))
    return x.astype(np.float32), masks


def run(noise, head="mlp", seeds=(0, 1)):
    splits = Splits(*(Labelled(*world(n, noise, seed)) for seed, n in ((0, 48), (1, 16), (2, 24))))
    return segmentation.probe(splits, classes=("floor", "cup", "dog"), head=head, seeds=seeds, training=FAST)


@pytest.fixture(scope="module")
def clean_and_noisy():
    return run(0.3), run(3.0)


def test_probe_reads_what_is_there(clean_and_noisy):
    clean, noisy = clean_and_noisy
    assert clean.miou > 0.97 and clean.recall > 0.95
    assert 0.2 < noisy.miou < 0.8
    assert list(clean.per_class) == ["floor", "cup", "dog"]
    assert clean.miou == pytest.approx(np.mean(clean.seeds["miou"]))
    assert noisy.interval.low < noisy.miou < noisy.interval.high


def test_paired_difference(clean_and_noisy):
    clean, noisy = clean_and_noisy
    gap = segmentation.difference(clean, noisy)
    assert gap.value == pytest.approx(clean.miou - noisy.miou, abs=1e-6) and gap.low > 0
    none = segmentation.difference(clean, clean, "recall")
    assert none.value == none.low == none.high == 0
    assert segmentation.difference(noisy, clean, "recall").high < 0


def test_seeded_and_linear():
    first, again = run(1.0, "linear"), run(1.0, "linear")
    assert first.seeds == again.seeds and np.array_equal(first.overlap, again.overlap)
    assert first.seeds["miou"][0] != first.seeds["miou"][1]
    assert first.miou > 0.5


def test_bad_masks_are_named():
    x, masks = world(4, 1.0, 0)
    with pytest.raises(UserError, match="masks hold class 2, but there are 2 classes"):
        segmentation.patch_labels(x, masks, 2)
    majority, union = segmentation.patch_labels(x, masks, 2, ignore=2)
    assert (majority == segmentation.IGNORE).any() and union.shape == (4, 16, 2)
    with pytest.raises(UserError, match="do not divide into 16 square patches"):
        segmentation.patch_labels(x, masks[:, :3, :3], 3)
    with pytest.raises(UserError, match=r"need \[n, p, d\]"):
        segmentation.patch_labels(x[0], masks, 3)
    with pytest.raises(UserError, match="head 'big' is unknown"):
        heads.train({}, 3, "big", (0,), FAST)


def test_odd_image_sizes_follow_the_encoder():
    # 384 pixels in patches of 14 are 27 x 27 patches of the first 378 pixels.
    counts = segmentation.pixel_counts(np.zeros((1, 384, 384), np.uint8), 729, 2)
    assert counts.shape == (1, 729, 2) and (counts[..., 0] == 14 * 14).all()


def test_camvid_patches_from_colour_alone(shared_data):
    from PIL import Image

    def split(name, count, side=12, cell=8):
        folder = shared_data / "camvid_mini"
        paths = sorted((folder / name).glob("*.jpg"))[:count]
        size = (side * cell, side * cell)
        images = np.stack([np.asarray(Image.open(path).resize(size)) for path in paths])
        labels = [folder / f"{name}annot" / f"{path.stem}.png" for path in paths]
        masks = np.stack([np.asarray(Image.open(path).resize(size, Image.Resampling.NEAREST)) for path in labels])
        cells = images.reshape(len(paths), side, cell, side, cell, 3).astype(np.float32) / 255
        position = np.broadcast_to(np.stack(np.mgrid[:side, :side], -1) / side, (len(paths), side, side, 2))
        x = np.concatenate([cells.mean((2, 4)), cells.std((2, 4)), position], -1)
        return x.reshape(len(paths), side * side, -1), masks

    splits = Splits(*(Labelled(*split(name, count)) for name, count in (("train", 64), ("val", 16), ("test", 24))))
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    result = segmentation.probe(splits, classes=names, ignore=11, training=FAST, seeds=(0,))
    assert result.per_class["sky"] > 0.4 and result.per_class["road"] > 0.6
    assert 0.1 < result.miou < 0.7 and 0 < result.recall < 1
