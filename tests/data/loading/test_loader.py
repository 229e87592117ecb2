"""From files to batches: plan, shapes, sharding, exact resume, bad rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.loading.schedule import Schedule, assign, local_slice
from pivot_jax.data.processing.batch import ContrastiveBatch, PromptBatch, VLMBatch
from pivot_jax.data.processing.processor import build_processor
from pivot_jax.errors import UserError
from tests.data.conftest import config, llava_row, preference_row, write_jsonl

FIELDS = ("images", "tokens", "image_slots", "positions", "segments", "branches", "sources", "targets", "weights",
          "target_branches", "target_rows", "row_index")  # fmt: skip


@pytest.fixture
def rows(tmp_path, image_folder):
    """Config entry of 40 conversations with images."""
    path = write_jsonl(tmp_path / "rows.jsonl", [llava_row(i) for i in range(40)])
    return {"format": "llava", "path": path, "image_root": str(image_folder)}


@pytest.fixture
def pairs(tmp_path, image_folder):
    """Config entry of 40 preference pairs with images."""
    path = write_jsonl(tmp_path / "pairs.jsonl", [preference_row(i) for i in range(40)])
    return {"format": "mmpr", "path": path, "image_root": str(image_folder)}


def load(cfg, tokenizer, kind="sft", **more):
    with cfg.unlocked():
        cfg.data.image.size = 8
    return build_loader(cfg, build_processor(cfg, tokenizer, kind, patch_size=4), **more)


def same(a: VLMBatch, b: VLMBatch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


# ---- counts and plan


def test_steps_of_an_epoch_of_20k_pairs(tokenizer):
    """20K pairs, batch 256, 3 epochs: 78 steps per epoch (the 32 rows that are left are dropped), 234 in all."""
    plan = Schedule(np.zeros(20_000, np.int32), 256, seed=0, shuffle=True)
    assert plan.steps_per_epoch == 78
    rows = [{"id": str(i), "prompt": "q", "chosen": "a", "rejected": "b"} for i in range(20_000)]
    cfg = config({"format": "trl", "path": rows}, batch_size=256)
    with cfg.unlocked():
        cfg.train.epochs = 3.0
    loader = load(cfg, tokenizer, "preference")
    assert (loader.rows, loader.steps_per_epoch, loader.total_steps) == (20_000, 78, 234)
    first, last = loader.batch_at(0), loader.batch_at(233)
    assert first.tokens.shape[0] == last.tokens.shape[0] == 256 and (last.row_index >= 0).all()


@pytest.mark.parametrize(("epochs", "steps", "want"), [(1.0, 0, 5), (2.5, 0, 13), (0.1, 0, 1), (1.0, 7, 7)])
def test_total_steps(rows, tokenizer, epochs, steps, want):
    cfg = config(rows)
    with cfg.unlocked():
        cfg.train.epochs, cfg.train.steps = epochs, steps
    loader = load(cfg, tokenizer)
    assert loader.total_steps == want and sum(1 for _ in loader) == want


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once_an_epoch_whatever_the_buckets(shuffle):
    """Three buckets, one of them nearly empty: floor(rows / batch) full batches of one bucket or a larger one."""
    bucket_of = np.asarray([0] * 61 + [1] * 37 + [2] * 3, np.int32)
    plan = Schedule(bucket_of, 8, seed=3, shuffle=shuffle)
    dropped = []
    for epoch in range(4):
        seen = []
        for step in range(epoch * 12, (epoch + 1) * 12):
            rows = plan.batch(step)
            assert len(rows) == 8
            seen += rows.tolist()
        assert len(seen) == len(set(seen)) == 96
        dropped.append(set(range(101)) - set(seen))
    if shuffle:
        assert len(set.union(*dropped)) > 12  # other rows are left out in other epochs
    else:
        assert all(left == set(range(96, 101)) for left in dropped)


def test_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[int]:
        plan = Schedule(np.zeros(64, np.int32), 8, seed, True)
        return [int(i) for step in range(epoch * 8, epoch * 8 + 8) for i in plan.batch(step)]

    assert order(0, 0) == order(0, 0) and order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    assert sorted(order(0, 0)) == sorted(order(1, 3)) == list(range(64))


def test_rows_take_the_first_bucket_that_holds_tokens_and_targets():
    lengths, targets = np.asarray([10, 10, 30, 50]), np.asarray([2, 9, 2, 2])
    assert assign(lengths, targets, ((10, 4), (40, 10))).tolist() == [0, 1, 1, 2]


def test_batch_not_divisible_by_processes(rows, tokenizer):
    assert local_slice(8, 1, 4) == slice(2, 4)
    with pytest.raises(UserError, match="batch_size: 8 .* over 3 processes; use a multiple of 3"):
        load(config(rows), tokenizer, process=(0, 3))


# ---- batches


def test_batch_holds_the_rows(rows, tokenizer):
    loader = load(config(rows), tokenizer)
    batch = next(iter(loader))
    n, t = loader.buckets[0]
    assert batch.images.shape == (8, 1, 8, 8, 3) and batch.images.dtype == np.uint8
    assert batch.tokens.shape == (8, n) and batch.targets.shape == (8, t) and batch.ref_logps is None
    for place, index in enumerate(batch.row_index[:, 0]):
        row = loader.data.encoded(int(index))
        length, targets = len(row.tokens), len(row.targets)
        assert batch.tokens[place, :length].tolist() == row.tokens.tolist()
        assert set(batch.tokens[place, length:].tolist()) <= {loader.processor.chat.pad_id}
        assert batch.segments[place].tolist() == [1] * length + [0] * (n - length)
        assert batch.weights[place].tolist() == [1.0] * targets + [0.0] * (t - targets)
        assert batch.targets[place, :targets].tolist() == row.targets.tolist()
        assert (batch.image_slots[place, length:] == -1).all()
        assert batch.image_slots[place].max() == 3
        number = int(loader.data.row_id(int(index)).removeprefix("row"))
        assert batch.images[place, 0, 0, 0].tolist() == [number, 2 * number, 3 * number]


def test_static_shapes_come_from_the_buckets(rows, tokenizer):
    buckets = ((48, 8), (64, 16), (128, 128))
    loader = load(config(rows, buckets=buckets), tokenizer)
    shapes = {(batch.tokens.shape[1], batch.targets.shape[1]) for batch in loader}
    assert len(shapes) > 1 and shapes <= set(buckets)
    assert sum(1 for _ in loader) == 5


def test_preference_batch_with_stored_reference(pairs, tokenizer):
    starts = load(config(pairs), tokenizer, "preference").target_offsets
    ref = np.arange(1, starts[-1] + 1, dtype=np.float32)
    loader = load(config(pairs), tokenizer, "preference")
    loader.set_ref_logps(ref)
    batch = next(iter(loader))
    assert set(np.unique(batch.branches)) == {0, 1, 2}
    assert batch.ref_logps.shape == batch.targets.shape
    for place, row in enumerate(batch.row_index[:, 0]):
        own = ref[starts[row] : starts[row + 1]]
        assert len(own) == len(loader.data.encoded(int(row)).targets)
        assert batch.ref_logps[place].tolist() == [*own, *[0.0] * (batch.ref_logps.shape[1] - len(own))]
    ref[starts[batch.row_index[0, 0]] + 1] = np.nan  # its image could not be read when the reference was computed
    loader.set_ref_logps(ref)
    again = loader.batch_at(0)
    assert again.row_index[0] == -1 and not again.weights[0].any() and not again.ref_logps[0].any()
    assert again.row_index[1:].tolist() == batch.row_index[1:].tolist()
    with pytest.raises(UserError, match=rf"shape \({len(ref) - 1},\), the data set needs \({len(ref)},\)"):
        loader.set_ref_logps(ref[:-1])


def test_both_arms_train_on_the_same_rows_in_the_same_batches(pairs, tokenizer, tmp_path, image_folder):
    """SFT and DPO loaders over one preference file agree on usable rows and on which rows are in which batch."""
    bad = [preference_row(40, image="0.png", rejected=" "), preference_row(41, image="1.png", chosen="")]
    path = write_jsonl(tmp_path / "mixed.jsonl", [*(preference_row(i) for i in range(40)), *bad])
    entry = {"format": "mmpr", "path": path, "image_root": str(image_folder)}
    sft, dpo = (load(config(entry, max_bad_share=0.1), tokenizer, kind) for kind in ("sft", "preference"))
    assert sft.rows == dpo.rows == 40
    assert (
        [sft.data.row_id(i) for i in range(40)]
        == [dpo.data.row_id(i) for i in range(40)]
        == [f"row{i}" for i in range(40)]
    )
    for a, b in zip(sft, dpo, strict=True):
        np.testing.assert_array_equal(a.row_index, b.row_index)
        np.testing.assert_array_equal(a.images, b.images)


def test_contrastive_and_prompt_batches(rows, tokenizer):
    contrastive = next(iter(load(config(rows), tokenizer, "contrastive")))
    assert isinstance(contrastive, ContrastiveBatch) and contrastive.images.shape == (8, 8, 8, 3)
    assert contrastive.tokens.shape == (8, 32) and contrastive.weights.tolist() == [1.0] * 8
    assert (contrastive.tokens[:, -1] == tokenizer.pad_token_id).all()
    loader = load(config(rows), tokenizer, "prompt")
    prompts = list(loader.ordered())
    assert all(isinstance(batch, PromptBatch) for batch in prompts) and len(prompts) == 5
    ids = prompts[0].tokens[0][prompts[0].segments[0] == 1]
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_ordered_gives_every_row_once_with_a_masked_tail(rows, tokenizer):
    loader = load(config({**rows, "sampling": "first:21"}), tokenizer)
    batches = list(loader.ordered())
    index = np.concatenate([batch.row_index for batch in batches])
    assert index.ravel().tolist() == [*range(21), -1, -1, -1]
    last = batches[-1]
    assert not last.weights[5:].any() and not last.segments[5:].any() and not last.images[5:].any()
    assert (last.image_slots[5:] == -1).all() and last.weights[:5].any(1).all()


def test_several_images_and_text_only_rows_share_a_batch(tmp_path, image_folder, tokenizer):
    mixed = [
        {"id": "two", "image": ["1.png", "2.png"], "conversations": [
            {"from": "human", "value": "<image>\n<image>\nSame?"}, {"from": "gpt", "value": "no"}]},
        {"id": "none", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "yes"}]},
        llava_row(3), llava_row(4),
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "mixed.jsonl", mixed)
    source = {"format": "llava", "path": path, "image_root": str(image_folder)}
    batch = next(load(config(source, batch_size=4, images_per_row=2), tokenizer).ordered())
    assert batch.images.shape == (4, 2, 8, 8, 3)
    assert batch.image_slots.max(1).tolist() == [7, -1, 3, 3]
    assert batch.images[0, 1, 4, 4].tolist() == [2, 4, 6] and not batch.images[1].any()
    assert batch.images[0, 0, 0, 0].min() > 100  # several images in a row are padded to squares with grey


@pytest.mark.parametrize("cache", [0, 1])
def test_caches_and_threads_change_nothing(rows, tokenizer, cache):
    plain = load(config(rows, cache_rows_mib=0, cache_images_mib=0, workers=1, prefetch=1), tokenizer)
    other = load(config(rows, cache_rows_mib=cache, cache_images_mib=1, workers=3, prefetch=4), tokenizer)
    for a, b in zip(plain, other, strict=True):
        assert same(a, b)
    for a, b in zip(plain, other, strict=True):  # now from the caches
        assert same(a, b)


def test_processes_together_hold_the_global_batch(rows, tokenizer):
    whole = load(config(rows), tokenizer)
    parts = [load(config(rows), tokenizer, process=(i, 4)) for i in range(4)]
    for batches in zip(whole, *parts, strict=True):
        for name in FIELDS:
            joined = np.concatenate([getattr(batch, name) for batch in batches[1:]])
            np.testing.assert_array_equal(joined, getattr(batches[0], name))
    tails = [load(config({**rows, "sampling": "first:5"}), tokenizer, process=(i, 2)) for i in (0, 1)]
    index = [batch.row_index.ravel().tolist() for loader in tails for batch in loader.ordered()]
    assert index == [[0, 1, 2, 3], [4, -1, -1, -1]]


# ---- resume


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7, 12])
def test_a_restored_loader_gives_the_same_next_batch(pairs, tokenizer, stop):
    """Saved before ``next``, restored in a new loader, across epoch ends (5 steps an epoch), through JSON."""
    cfg = config(pairs, buckets=((64, 32), (128, 64)))
    with cfg.unlocked():
        cfg.train.epochs = 3.0
    whole = list(load(cfg, tokenizer, "preference"))
    assert len(whole) == 15
    iterator = iter(load(cfg, tokenizer, "preference"))
    for _ in range(stop):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    del iterator
    resumed = iter(load(cfg, tokenizer, "preference"))
    resumed.set_state(state)
    rest = list(resumed)
    assert len(rest) == 15 - stop and all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))


def test_state_is_that_of_batches_returned_not_of_batches_read_ahead(rows, tokenizer):
    iterator = iter(load(config(rows, prefetch=4), tokenizer))
    next(iterator)
    state = iterator.get_state()
    wanted = next(iterator)
    iterator.set_state(state)
    assert same(next(iterator), wanted)


def test_state_of_other_data_is_rejected(rows, tokenizer, tmp_path):
    state = iter(load(config(rows), tokenizer)).get_state()
    other = config({**rows, "sampling": "first:39"})
    with pytest.raises(UserError, match="does not fit this data set"):
        iter(load(other, tokenizer)).set_state(state)
    seeded = config(rows)
    with seeded.unlocked():
        seeded.seed = 1
    with pytest.raises(UserError, match="start a new workdir"):
        iter(load(seeded, tokenizer)).set_state(state)


# ---- bad rows


BAD_LINES = [
    '{"id": "broken", ',
    {"id": "fieldless", "image": "1.png"},
    llava_row(2, answer=" "),
    {**llava_row(3), "image": ["3.png", "4.png"]},
    {**llava_row(4), "image": "gone.png"},
    {"id": "long", "conversations": [{"from": "human", "value": "red " * 300}, {"from": "gpt", "value": "a"}]},
]
REASONS = {
    "bad.jsonl:1": "malformed JSON",
    "fieldless": "'conversations' is missing",
    "row2": "answer is empty",
    "row3": "1 placeholder <image> but 2 images",
    "row4": "gone.png does not exist",
    "long": "after the limit",
}


def bad_source(tmp_path, image_folder, good: int = 30) -> dict:
    path = write_jsonl(tmp_path / "bad.jsonl", [*BAD_LINES, *(llava_row(i) for i in range(5, 5 + good))])
    return {"format": "llava", "path": path, "image_root": str(image_folder)}


def test_bad_rows_are_counted_listed_and_left_out(tmp_path, image_folder, tokenizer):
    source = bad_source(tmp_path, image_folder)
    work = tmp_path / "work"
    loader = load(config(source, max_bad_share=0.2), tokenizer, workdir=work)
    assert loader.rows == 30 and loader.skipped.count == 6
    assert loader.skipped.share == pytest.approx(6 / 36)
    entries = [json.loads(line) for line in (work / "skipped.jsonl").read_text().splitlines()]
    found = {entry["id"].removeprefix(str(tmp_path) + "/"): entry["reason"] for entry in entries}
    assert set(found) == set(REASONS)
    for row_id, words in REASONS.items():
        assert words in found[row_id]
    assert {loader.data.row_id(i) for i in range(30)} == {f"row{i}" for i in range(5, 35)}
    again = load(config(source, max_bad_share=0.2), tokenizer, workdir=work)  # a resumed run
    assert again.skipped.count == 6 and len((work / "skipped.jsonl").read_text().splitlines()) == 6


def test_skip_log_survives_a_kill_while_writing(tmp_path, image_folder, tokenizer):
    work = tmp_path / "work"
    cfg = config(bad_source(tmp_path, image_folder), max_bad_share=0.2)
    load(cfg, tokenizer, workdir=work)
    path = work / "skipped.jsonl"
    path.write_text(path.read_text()[:-40])
    assert load(cfg, tokenizer, workdir=work).skipped.count == 6
    *whole, torn, last = path.read_text().splitlines()
    assert [json.loads(line)["id"] for line in (*whole, last)][-1] == "long" and len(whole) == 5
    with pytest.raises(ValueError):
        json.loads(torn)


def test_too_many_bad_rows_stop_the_run(tmp_path, image_folder, tokenizer):
    source = bad_source(tmp_path, image_folder)
    with pytest.raises(UserError, match=r"6 of 36 rows .*skipped\.jsonl.* more than data\.max_bad_share=0\.1") as error:
        load(config(source, max_bad_share=0.1), tokenizer, workdir=tmp_path / "w")
    assert "\n" not in str(error.value)
    assert len((tmp_path / "w" / "skipped.jsonl").read_text().splitlines()) == 6  # all are listed, not only the last


def test_fixed_rows_are_no_longer_counted(tmp_path, image_folder, rows, tokenizer):
    """Over the limit, then fixed as the message asks: a missing image, a broken one. The same command resumes."""
    work, listed = tmp_path / "work", tmp_path / "work" / "skipped.jsonl"
    whole = {name: (image_folder / name).read_bytes() for name in ("7.png", "9.png")}
    (image_folder / "7.png").unlink()
    (image_folder / "9.png").write_text("this is no image")
    with pytest.raises(UserError, match="more than data.max_bad_share"):
        list(load(config(rows, max_bad_share=0.03), tokenizer, workdir=work).ordered())
    assert {json.loads(line)["id"] for line in listed.read_text().splitlines()} == {"row7", "row9"}
    (image_folder / "7.png").write_bytes(whole["7.png"])
    again = load(config(rows, max_bad_share=0.03), tokenizer, workdir=work)
    assert [entry["id"] for entry in again.skipped.entries.values()] == ["row9"]
    (image_folder / "9.png").write_bytes(whole["9.png"])
    again = load(config(rows, max_bad_share=0.0), tokenizer, workdir=work)
    assert again.rows == 40 and again.skipped.count == 0 and listed.read_text() == ""


@pytest.mark.parametrize("cache", [0, 64])
def test_bad_images_leave_masked_rows(tmp_path, image_folder, rows, tokenizer, cache):
    (image_folder / "7.png").write_bytes((image_folder / "7.png").read_bytes()[:44])
    (image_folder / "9.png").write_text("this is no image")
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "whole.jpg")
    (image_folder / "11.png").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    work = tmp_path / "work"
    loader = load(config(rows, max_bad_share=0.1, cache_images_mib=cache), tokenizer, workdir=work)
    assert loader.rows == 40
    for _ in range(2):
        batches = list(loader)
        index = np.concatenate([batch.row_index for batch in batches])
        assert sorted(index[index >= 0].tolist()) == sorted(set(range(40)) - {7, 9, 11}) and (index == -1).sum() == 3
        for batch in batches:
            bad = batch.row_index[:, 0] < 0
            assert not batch.weights[bad].any() and not batch.segments[bad].any() and not batch.images[bad].any()
    entries = [json.loads(line) for line in (work / "skipped.jsonl").read_text().splitlines()]
    assert {entry["id"] for entry in entries} == {"row7", "row9", "row11"} and len(entries) == 3
    assert all(f"{entry['id'][3:]}.png" in entry["reason"] for entry in entries)


def test_bad_images_stop_the_run_above_the_limit(image_folder, rows, tokenizer):
    (image_folder / "7.png").write_text("this is no image")
    loader = load(config(rows, max_bad_share=0.01), tokenizer)
    with pytest.raises(UserError, match=r"1 of 40 rows .*max_bad_share=0\.01.*row7.*7\.png"):
        list(loader)


def test_broken_image_bytes_are_named_by_their_row(tmp_path, tokenizer):
    """Parquet rows carry encoded bytes: a message has no file to name, and must not name a buffer in memory."""
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{**llava_row(i), "image": {"bytes": b"not an image", "path": None}} for i in range(2)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = {"format": "llava", "path": str(tmp_path / "rows.parquet")}
    with pytest.raises(UserError, match="row 'row[01]'") as caught:
        list(load(config(source, batch_size=2), tokenizer, workdir=tmp_path / "work"))
    listed = (tmp_path / "work" / "skipped.jsonl").read_text()
    for words in (str(caught.value), listed):
        assert "row" in words and "of 12 encoded bytes cannot be read (not an image" in words
        assert "BytesIO" not in words


def test_missing_files_can_be_left_to_the_moment_of_reading(image_folder, rows, tokenizer):
    (image_folder / "7.png").unlink()
    early = load(config(rows, max_bad_share=0.5), tokenizer)
    assert early.rows == 39 and early.skipped.count == 1
    late = load(config(rows, max_bad_share=0.5, check_images=False), tokenizer)
    assert late.rows == 40 and late.skipped.count == 0
    assert sum((batch.row_index < 0).sum() for batch in late) == 1
    assert "7.png does not exist" in late.skipped.entries[7]["reason"]


def test_too_few_rows_for_a_batch(rows, tokenizer):
    loader = load(config({**rows, "sampling": "first:5"}), tokenizer)
    with pytest.raises(UserError, match=r"5 usable rows, fewer than data\.batch_size=8"):
        iter(loader)
    assert len(list(loader.ordered())) == 1
    with pytest.raises(UserError, match="none of its 0 rows"):
        load(config({**rows, "sampling": "first:0"}), tokenizer)


def test_changed_file_is_read_again(rows, tokenizer, tmp_path):
    before = load(config(rows), tokenizer)
    write_jsonl(tmp_path / "rows.jsonl", [llava_row(i, answer="green" * 9) for i in range(40)])
    after = load(config(rows), tokenizer)
    assert after.data.encoded(0).targets.tolist() != before.data.encoded(0).targets.tolist()


# ---- real files


def test_real_files_run_through(shared_data, qwen):
    """Stage 1a, SFT and DPO rows of the trial configs, 384 pixels, 576 image tokens."""
    pairs = "preference_pairs"
    for kind, template, bad, entry in (  # two pairs of the last file have an empty answer
        ("sft", "plain", 0, {"format": "llava", "path": "llava_pretrain_mini/data.json"}),
        ("sft", "chat", 0, {"format": "scienceqa", "path": "scienceqa_test_img/data.jsonl", "sampling": "random:200"}),
        ("preference", "chat", 0, {"format": pairs, "path": "mathvision/preference_pairs.jsonl"}),
        (
            "preference",
            "chat",
            2,
            {"format": pairs, "path": "mmvet_preference/preference_pairs.jsonl"},
        ),
    ):
        entry = {**entry, "path": str(shared_data / entry["path"])}
        cfg = config(entry, template=template, max_length=2048, batch_size=4, max_bad_share=0.03)
        with cfg.unlocked():
            cfg.data.image.size = 384
        loader = build_loader(cfg, build_processor(cfg, qwen, kind, patch_size=16))
        assert loader.rows == len(loader.source) - bad and loader.skipped.count == bad
        batch = next(iter(loader))
        assert batch.images.shape == (4, 1, 384, 384, 3) and batch.images.std() > 10
        assert ((batch.image_slots >= 0).sum(1) == 576).all() and batch.weights.any(1).all()


# ---- looking at a data set without its batches


@pytest.mark.parametrize("packing", [1, 2])
def test_the_composition_of_a_batch_is_the_batch(rows, tokenizer, packing):
    loader = load(config(rows, packing=packing, buckets=((48, 24), (140, 60))), tokenizer)
    for step in range(loader.steps_per_epoch):
        members, bucket = loader.composition(step)
        batch = loader.batch_at(step)
        assert np.array_equal(np.ravel(batch.row_index), members)
        assert (batch.tokens.shape[1], batch.targets.shape[1]) == loader.buckets[bucket]


@pytest.mark.parametrize("cache", [0, 256])
def test_each_row_in_order_whether_kept_or_not(rows, tokenizer, cache, monkeypatch):
    monkeypatch.setattr("pivot_jax.data.loading.rows.EACH", 7)
    loader = load(config(rows, cache_rows_mib=cache), tokenizer)
    found = list(loader.data.each())
    assert [example.id for example, _ in found] == [f"row{i}" for i in range(40)] == [row.id for _, row in found]
    assert [len(row.tokens) for _, row in found] == loader.data.index.lengths.tolist()
