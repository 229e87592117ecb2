"""Union labels, macro recall over classes with positives, the MLP head; and mean IoU on majority labels."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.patches import Patches
from pivot_jax.errors import UserError
from pivot_jax.probe import features, heads, segmentation
from pivot_jax.probe.encoder_probes import segment
from pivot_jax.probe.heads import Training
from pivot_jax.probe.segmentation import SegmentSettings
from pivot_jax.probe.splits import Labelled, Splits
from tests.probe.conftest import tiny_encoder

FAST = Training(epochs=12, batch_size=8, learning_rate=5e-3, final_learning_rate=5e-4, hidden=64)


def test_patch_labels_by_union_and_by_majority():
    mask = np.zeros((1, 4, 4), int)
    mask[0, :2, :2] = [[0, 5], [0, 0]]  # {0, 5} -> {5}
    mask[0, :2, 2:] = 0  # {0} -> {0}
    mask[0, 2:, :2] = [[2, 3], [3, 3]]  # {2, 3} -> {2, 3}
    mask[0, 2:, 2:] = [[1, 1], [0, 0]]  # tie in pixels: {1}, majority the smaller id
    majority, union = segmentation.patch_labels(Labelled(np.zeros((1, 4, 2)), mask), 6)
    assert [set(np.flatnonzero(row)) for row in union[0]] == [{5}, {0}, {2, 3}, {1}]
    assert majority.tolist() == [[0, 0, 3, 0]]


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
        segmentation.patch_labels(Labelled(x, masks), 2)
    majority, union = segmentation.patch_labels(Labelled(x, masks), 2, ignore=2)
    assert (majority == segmentation.IGNORE).any() and union.shape == (4, 16, 2)
    with pytest.raises(UserError, match="masks of 3x3 do not divide into 4x4 patches"):
        segmentation.patch_labels(Labelled(x, masks[:, :3, :3]), 3)
    with pytest.raises(UserError, match=r"need \[n, p, d\]"):
        segmentation.patch_labels(Labelled(x[0], masks), 3)
    with pytest.raises(UserError, match="head 'big' is unknown"):
        heads.train({}, 3, "big", (0,), FAST)


def test_odd_image_sizes_follow_the_encoder():
    # 384 pixels in patches of 14 are 27 x 27 patches of the first 378 pixels.
    counts = segmentation.pixel_counts(np.zeros((384, 384), np.uint8), (27, 27), 2)
    assert counts.shape == (27, 27, 2) and (counts[..., 0] == 14 * 14).all()


def test_labels_follow_each_image_on_its_own_grid():
    """Patches of variable-resolution images, in the order of a merging encoder's windows, with padding."""
    generator = np.random.default_rng(0)
    geometry = Patches("qwen2_5_vl", 4, 64, 0, 4096, 2)
    masks, positions = [], np.full((3, 64, 2), -1, np.int32)
    for index, (height, width) in enumerate(((24, 40), (16, 16), (60, 10))):
        mask = Image.fromarray(generator.integers(0, 4, (height, width), dtype=np.uint8))
        masks.append(geometry.resized_mask(mask))
        positions[index] = geometry.convert(mask.convert("RGB")).positions[0]
    part = Labelled(generator.normal(size=(3, 64, 5)), masks, positions)
    majority, union = segmentation.patch_labels(part, 4)
    for index, mask in enumerate(masks):
        assert ((positions[index, :, 0] >= 0).sum(), 16) == (mask.size // 16, 16)
        for patch, (row, column) in enumerate(positions[index]):
            if row < 0:
                assert majority[index, patch] == segmentation.IGNORE and not union[index, patch].any()
                continue
            inside = mask[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert majority[index, patch] == np.bincount(inside.ravel()).argmax()
            assert set(np.flatnonzero(union[index, patch])) == (set(inside.ravel()) - {0} or {0})
    merged = features.token_positions(positions, 16)  # of the tokens after the projector
    tokens, _ = segmentation.patch_labels(Labelled(part.features[:, :16], masks, merged), 4)
    first = tokens[0, geometry.token_slots(3, 5)].reshape(3, 5)  # row by row
    assert first[1, 2] == np.bincount(masks[0][8:16, 16:24].ravel()).argmax()


@pytest.mark.heavy
def test_padding_changes_no_result():
    """Squares, as lists of patches in another order with padding, train and score the same."""
    whole, listed = [], []
    order = np.random.default_rng(3).permutation(16)
    grid = np.stack(np.divmod(np.arange(16), 4), axis=1)
    for seed, n in ((0, 48), (1, 16), (2, 24)):
        x, masks = world(n, 1.0, seed)
        whole.append(Labelled(x[:, order], masks, np.broadcast_to(grid[order], (n, 16, 2))))
        padded = np.zeros((n, 20, 10), np.float32)
        padded[:, :16] = x[:, order]
        positions = np.full((n, 20, 2), -1, np.int32)
        positions[:, :16] = grid[order]
        listed.append(Labelled(padded, list(masks), positions))
    settings = SegmentSettings(seeds=(0,), training=FAST)
    first, second = (segmentation.run(Splits(*parts), settings, classes="abc") for parts in (whole, listed))
    assert first.miou == pytest.approx(second.miou, abs=0.01) and first.recall == pytest.approx(second.recall, abs=0.01)


def test_patch_seg_chooses_on_the_reported_images_and_says_so():
    splits = Splits(*(Labelled(*world(n, 1.0, seed)) for seed, n in ((0, 16), (1, 8), (2, 8))))
    assert segmentation.PATCH_SEG.seeds == (0, 1, 2, 3, 4, 5) and not segmentation.PATCH_SEG.training.standardise
    found = segmentation.run(splits, replace(segmentation.PATCH_SEG, seeds=(0, 1)), classes="abc")
    assert found.flags[0].startswith("CHOSEN ON TEST") and len(found.seeds["recall"]) == 2


@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
def test_an_encoder_of_squares_and_one_of_patches_take_one_path(coloured, kind):
    settings = SegmentSettings(seeds=(0,), training=replace(FAST, epochs=40))
    found = segment(tiny_encoder(kind), coloured / "masks", "rgb", settings=settings)
    assert found.miou > 0.75 and list(found.per_class) == ["r", "g", "b"]
    with pytest.raises(UserError, match="this layout names no classes; name them with --classes"):
        segment(tiny_encoder(kind), coloured / "masks", settings=settings)


def test_camvid_patches_from_colour_alone(shared_data):
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
