"""Packing: who shares a sequence, buckets of packed lengths, the same batches after a resume and on every process."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.loading.packing import Packer
from pivot_jax.data.loading.schedule import Schedule, local_slice
from pivot_jax.data.processing.processor import build_processor
from pivot_jax.errors import UserError
from tests.data.conftest import config, llava_row, preference_row, write_jsonl

FIELDS = ("images", "tokens", "image_slots", "positions", "segments", "branches", "sources", "targets", "weights",
          "target_branches", "target_rows", "row_index")  # fmt: skip


@pytest.fixture
def pairs(tmp_path, image_folder):
    """Config entry of 40 preference pairs of different lengths, some without an image."""
    rows = [preference_row(i, chosen="The circle is red." + " Yes." * (i % 9)) for i in range(40)]
    for row in rows[::5]:
        del row["image"]
    return {"format": "mmpr", "path": write_jsonl(tmp_path / "pairs.jsonl", rows), "image_root": str(image_folder)}


def load(cfg, tokenizer, kind="preference", **more):
    with cfg.unlocked():
        cfg.data.image.size = 8
    return build_loader(cfg, build_processor(cfg, tokenizer, kind, patch_size=4), **more)


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def packer(lengths, packing):
    lengths = np.asarray(lengths, np.int32)
    return Packer(lengths, np.ones_like(lengths), packing)


# ---- dealing


def test_rows_are_dealt_evenly_and_each_once():
    rng = np.random.default_rng(0)
    deal = packer(rng.integers(50, 400, 256), 4)
    rows = rng.permutation(256)
    dealt = deal.deal(rows)
    assert sorted(dealt) == list(range(256)) and np.array_equal(dealt, deal.deal(rows))
    tokens = deal.sizes(dealt)[:, 0]
    assert tokens.shape == (64,) and tokens.max() <= 1.02 * tokens.mean()
    assert deal.sizes(rows)[:, 0].max() > 1.3 * tokens.mean()  # as they come


def test_a_long_row_gets_the_shortest_companions():
    dealt = packer([9, 1, 5, 5, 4, 2, 5, 5], 2).deal(np.arange(8))
    assert dealt.reshape(4, 2).tolist() == [[0, 1], [2, 7], [3, 4], [5, 6]]


def test_without_packing_nothing_moves():
    rows = np.random.default_rng(0).permutation(16)
    assert packer(np.arange(16), 1).deal(rows).tolist() == rows.tolist()


def test_a_masked_row_takes_a_place_and_no_room():
    alone = packer([7, 3, 2, 2], 3)
    dealt = alone.deal(np.asarray([0, 1, 2, 3, -1, -1]))
    assert dealt.tolist() == [0, -1, -1, 1, 2, 3]
    assert alone.sizes(dealt).tolist() == [[7, 1], [7, 3]]


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_of_a_large_bucket_stand_one_to_a_sequence_in_few_batches(shuffle):
    """20 long rows of 128, four sequences of four a batch: five batches take the large bucket, three do not."""
    bucket_of = np.zeros(128, np.int32)
    bucket_of[np.random.default_rng(1).permutation(128)[:20]] = 1
    plan = Schedule(bucket_of, 16, seed=3, shuffle=shuffle, packing=4)
    batches = [plan.batch(step) for step in range(8)]
    assert sorted(np.concatenate(batches)) == list(range(128))
    assert sorted(int(bucket_of[rows].sum()) for rows in batches) == [0, 0, 0, 4, 4, 4, 4, 4]


def test_more_long_rows_than_sequences_are_spread_over_all_batches():
    plan = Schedule(np.asarray([0] * 32 + [1] * 96, np.int32), 16, seed=0, shuffle=True, packing=4)
    assert [int(plan.bucket_of[plan.batch(step)].sum()) for step in range(8)] == [12] * 8


# ---- batches


def test_a_packed_batch_holds_what_the_unpacked_one_does(pairs, tokenizer):
    """The same rows in the same step; each row's fields are found again after its companions'."""
    alone, packed = (load(config(pairs, packing=packing), tokenizer) for packing in (1, 4))
    ref = np.random.default_rng(0).normal(size=alone.target_offsets[-1]).astype(np.float32)
    for loader in (alone, packed):
        loader.set_ref_logps(ref)
    assert packed.buckets[0][0] < 4 * alone.buckets[0][0]
    for a, b in zip(alone, packed, strict=True):
        assert b.tokens.shape[0] == 2 and b.images.shape == (2, 4, 8, 8, 3)
        assert sorted(a.row_index.ravel()) == sorted(b.row_index.ravel())
        assert a.weights.sum() == b.weights.sum() and (a.segments > 0).sum() == (b.segments > 0).sum()
        assert b.ref_logps.shape == b.targets.shape and not b.ref_logps[b.weights == 0].any()
        for (sequence, member), row in np.ndenumerate(b.row_index):
            mine, theirs = b.segments[sequence] == member + 1, np.flatnonzero(a.row_index[:, 0] == row)[0]
            want = packed.data.encoded(int(row))
            assert b.tokens[sequence, mine].tolist() == want.tokens.tolist()
            assert b.positions[sequence, mine].tolist() == want.positions.tolist()
            np.testing.assert_array_equal(b.images[sequence, member], a.images[theirs, 0])
            scored = (b.target_rows[sequence] == member) & (b.weights[sequence] > 0)
            own = ref[packed.target_offsets[row] : packed.target_offsets[row + 1]]
            assert b.ref_logps[sequence, scored].tolist() == own.tolist()
            slots = b.image_slots[sequence, mine]
            assert set(slots[slots >= 0]) <= set(range(4 * member, 4 * member + 4))


def test_a_batch_takes_the_first_bucket_that_holds_its_sequences(pairs, tokenizer):
    buckets = ((216, 128), (280, 192), (512, 256))
    loader = load(config(pairs, packing=4, buckets=buckets, max_length=128), tokenizer)
    shapes = [(batch.tokens.shape[1], batch.targets.shape[1]) for batch in loader]
    assert set(shapes) <= set(buckets) and len(shapes) == 5
    for batch, shape in zip(loader, shapes, strict=True):
        tokens, targets = (batch.segments > 0).sum(1).max(), batch.weights.sum(1).max()
        assert shape == next(bucket for bucket in buckets if tokens <= bucket[0] and targets <= bucket[1])


def test_buckets_that_are_too_small_for_the_packed_rows_are_refused_at_the_start(pairs, tokenizer):
    with pytest.raises(UserError, match=r"4 rows in a sequence need up to \d+ tokens .* is \(128, 96\)"):
        load(config(pairs, packing=4, buckets=((128, 96),)), tokenizer)


def test_the_bucket_made_from_the_data_holds_every_epoch(pairs, tokenizer):
    cfg = config(pairs, packing=4)
    with cfg.unlocked():
        cfg.train.epochs = 3.0
    loader = load(cfg, tokenizer)
    assert len(loader.buckets) == 1
    most = max(int((batch.segments > 0).sum(1).max()) for batch in [*loader, *loader.one_pass()])
    assert 0 <= loader.buckets[0][0] - most < 16


def test_pack_has_to_divide_the_rows_of_a_process_and_of_a_step(pairs, tokenizer):
    assert local_slice(16, 1, 2, 4) == slice(8, 16)
    with pytest.raises(UserError, match=r"data.packing: 4 does not divide the 2 rows of a process .*=8 over 4\)"):
        load(config(pairs, packing=4), tokenizer, process=(0, 4))
    for changes in ({"data.packing": 3}, {"data.packing": 8, "train.accumulate": 4}):
        cfg = configs.base()
        configs.merge(cfg, changes)
        with pytest.raises(UserError, match=r"data.packing: \d does not divide the \d+ rows of a step"):
            configs.validate(cfg)


def test_questions_and_other_batch_sizes_are_not_packed(tmp_path, image_folder, tokenizer):
    path = write_jsonl(tmp_path / "rows.jsonl", [llava_row(i) for i in range(40)])
    source = {"format": "llava", "path": path, "image_root": str(image_folder)}
    assert load(config(source, packing=4), tokenizer, "prompt").packing == 1
    assert load(config(source, packing=4), tokenizer, "sft", batch_size=5).packing == 1
    assert load(config(source, packing=4), tokenizer, "sft").packing == 4


def test_one_pass_gives_every_row_once(pairs, tokenizer):
    """40 rows in batches of 16: two of the first epoch, and the 8 rows that it leaves out beside masked ones."""
    for packing in (1, 4):
        loader = load(config(pairs, packing=packing, batch_size=16), tokenizer)
        batches = list(loader.one_pass())
        index = np.concatenate([batch.row_index.ravel() for batch in batches])
        assert len(batches) == 3 and sorted(index[index >= 0]) == list(range(40)) and (index < 0).sum() == 8
        assert all(same(a, b) for a, b in zip(batches[:2], loader, strict=True))


def test_a_bad_image_masks_its_row_and_leaves_its_companions(pairs, tokenizer, image_folder):
    (image_folder / "7.png").write_bytes(b"not an image")
    whole = load(config(pairs, packing=4), tokenizer).schedule
    step = next(step for step in range(5) if 7 in whole.batch(step))
    loader = load(config(pairs, packing=4, max_bad_share=0.5), tokenizer)
    batch = loader.batch_at(step)
    (sequence,), (member,) = np.nonzero(batch.row_index < 0)
    assert member + 1 not in batch.segments[sequence] and not batch.images[sequence, member].any()
    others = [i + 1 for i in range(4) if i != member]
    assert set(batch.segments[sequence]) == {0, *others}
    for other in others:
        want = loader.data.encoded(int(batch.row_index[sequence, other - 1]))
        assert batch.tokens[sequence, batch.segments[sequence] == other].tolist() == want.tokens.tolist()


# ---- processes and resume


def test_processes_together_hold_the_packed_batch(pairs, tokenizer):
    buckets = ((256, 160), (512, 256))
    whole = load(config(pairs, packing=2, buckets=buckets), tokenizer)
    parts = [load(config(pairs, packing=2, buckets=buckets), tokenizer, process=(i, 4)) for i in range(4)]
    for batches in zip(whole, *parts, strict=True):
        for name in FIELDS:
            joined = np.concatenate([getattr(batch, name) for batch in batches[1:]])
            np.testing.assert_array_equal(joined, getattr(batches[0], name))


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_resume_gives_the_same_next_batch(pairs, tokenizer, stop):
    cfg = config(pairs, packing=4)
    with cfg.unlocked():
        cfg.train.epochs = 2.0
    whole = list(load(cfg, tokenizer))
    iterator = iter(load(cfg, tokenizer))
    for _ in range(stop):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    resumed = iter(load(cfg, tokenizer))
    resumed.set_state(state)
    rest = list(resumed)
    assert len(rest) == 10 - stop and all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))


def test_a_place_in_other_packing_is_refused(pairs, tokenizer):
    state = iter(load(config(pairs, packing=4), tokenizer)).get_state()
    with pytest.raises(UserError, match="does not fit this data set"):
        iter(load(config(pairs, packing=2), tokenizer)).set_state(state)


@pytest.mark.parametrize("preset", ["siglip", "qwen2_vl"])
@pytest.mark.parametrize(("kind", "packing"), [("sft", 1), ("preference", 2), ("prompt", 1)])
def test_batches_without_images(tmp_path, tokenizer, kind, packing, preset):
    """No image slots at all, for squares and patches, with packed rows and masked ones."""
    rows = [{"id": str(i), "prompt": f"q{i}", "chosen": "yes " * (i + 1), "rejected": "no"} for i in range(10)]
    source = {"format": "trl", "path": write_jsonl(tmp_path / "rows.jsonl", rows)}
    cfg = config(source, images_per_row=0, packing=packing)
    with cfg.unlocked():
        cfg.data.image.preset, cfg.data.image.max_patches = preset, 16
    batches = list(load(cfg, tokenizer, kind).one_pass())
    assert sorted(row for batch in batches for row in batch.row_index.ravel()) == [*[-1] * 6, *range(10)]
    for batch in batches:
        assert batch.images.shape[:2] == (8 // packing, 0) and (batch.image_slots == -1).all()
        assert batch.patch_positions is None or batch.patch_positions.shape[:2] == (8 // packing, 0)
