"""data.tokenize_first=false: training starts at once, with the same batches, and bad rows are masked when they come."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
from scipy import stats

from pivot_jax import config as configs
from pivot_jax.data.loading import spot_check
from pivot_jax.data.loading.spot_check import beyond_doubt
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import UserError
from tests.data.conftest import config, llava_row, write_jsonl
from tests.data.loading.test_loader import load, same

SHAPE = ((128, 64),)


def untokenised(entry: dict, **data):
    return config(entry, **{"tokenize_first": False, "buckets": SHAPE, "max_bad_share": 0.2, **data})


def entry(folder, image_folder, rows: list, name: str = "rows.jsonl") -> dict:
    return {"format": "llava", "path": write_jsonl(folder / name, rows), "image_root": str(image_folder)}


@pytest.fixture
def rows(tmp_path, image_folder):
    """Config entry of 40 conversations with images."""
    return entry(tmp_path, image_folder, [llava_row(i) for i in range(40)])


def test_batches_are_those_of_tokenised_rows(rows, tokenizer, monkeypatch):
    """Bit for bit, in two epochs; before the first batch only the rows of the spot check are encoded."""
    encoded = []
    encode = Processor.encode
    monkeypatch.setattr(Processor, "encode", lambda self, example: encoded.append(example.id) or encode(self, example))
    monkeypatch.setattr(spot_check, "ROWS", 3)
    loader = load(untokenised(rows, cache_rows_mib=0), tokenizer)
    assert encoded == ["row0", "row19", "row39"]
    measured = load(config(rows, buckets=SHAPE), tokenizer)
    assert len(encoded) == 43
    assert loader.buckets == measured.buckets and loader.total_steps == measured.total_steps == 5
    steps = range(10)
    assert all(same(loader.batch_at(step), measured.batch_at(step)) for step in steps)
    assert all(np.array_equal(loader.composition(s)[0], measured.composition(s)[0]) for s in steps)


BAD = {
    "malformed": ('{"id": "b", "image": ', "malformed JSON line"),
    "no answer": (llava_row(5, answer=" "), "the answer is empty"),
    "no image": ({**llava_row(5), "image": "gone.png"}, "does not exist"),
    "no image file": ({**llava_row(5), "image": "rows.jsonl"}, "image"),
}


@pytest.mark.parametrize(("what", "kind"), [*((what, "thread") for what in BAD), ("malformed", "process")])
def test_a_bad_row_is_masked_where_a_batch_has_it(image_folder, tokenizer, tmp_path, monkeypatch, what, kind):
    monkeypatch.setattr(spot_check, "ROWS", 3)
    bad, reason = BAD[what]
    given = [llava_row(i) for i in range(40)]
    given[7] = bad
    source = entry(image_folder, image_folder, given)
    for _ in range(2):  # a second run repeats no line
        loader = load(untokenised(source, worker_kind=kind), tokenizer, workdir=tmp_path)
        batches = list(loader)
        taken = np.concatenate([batch.row_index for batch in batches])
        assert sorted(taken) == [-1, *(i for i in range(40) if i != 7)]
        masked = next(batch for batch in batches if -1 in batch.row_index)
        assert not masked.weights[list(masked.row_index).index(-1)].any() and loader.skipped.count == 1
        (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
        assert json.loads(line)["row"] == 7 and reason in json.loads(line)["reason"]
        del loader
        gc.collect()  # ends its processes


def test_too_many_bad_rows_end_the_run_when_they_come(image_folder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(spot_check, "ROWS", 1)
    given = [llava_row(i, answer=" " if i in (5, 6, 7) else None) for i in range(40)]
    loader = load(untokenised(entry(tmp_path, image_folder, given), max_bad_share=0.05), tokenizer)
    with pytest.raises(UserError, match="3 of 40 rows .* are bad, more than data.max_bad_share=0.05"):
        list(loader)


def test_rows_that_were_fixed_are_forgotten(rows, image_folder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(spot_check, "ROWS", 3)
    there = (image_folder / "7.png").read_bytes()
    (image_folder / "7.png").unlink()
    list(load(untokenised(rows), tokenizer, workdir=tmp_path))
    assert load(untokenised(rows), tokenizer, workdir=tmp_path).skipped.count == 1
    (image_folder / "7.png").write_bytes(there)
    assert load(untokenised(rows), tokenizer, workdir=tmp_path).skipped.count == 0
    assert (tmp_path / "skipped.jsonl").read_text() == ""


def test_wrong_data_are_an_error_before_training(rows, tokenizer, image_folder, tmp_path):
    for path in image_folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="of 40 rows looked at, none is usable. .* image file .* does not exist"):
        load(untokenised(rows, max_bad_share=1.0), tokenizer)
    given = [llava_row(i, answer=" " if i % 3 else None) for i in range(40)]
    with pytest.raises(UserError, match="of 40 rows looked at, 26 are bad, more than data.max_bad_share=0.2 allows"):
        load(untokenised(entry(tmp_path, tmp_path, given), check_images=False), tokenizer)


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.2, 0.9])
def test_the_spot_check_rejects_no_data_set_within_the_limit(limit):
    """Against the exact binomial tail: it rejects only below a chance of 1e-6, and does so within half as many more."""
    counts = range(1, 1025)
    rejected = [k for k in counts if beyond_doubt(k, 1024, limit)]
    exact = [k for k in counts if stats.binom.sf(k - 1, 1024, limit) < 1e-6]
    assert set(rejected) <= set(exact) and min(rejected) <= 1.5 * min(exact)
    assert rejected == list(range(min(rejected), 1025))
    assert not beyond_doubt(5, 1024, 1.0) and beyond_doubt(1, 1024, 0.0) and not beyond_doubt(0, 1024, 0.0)


def test_a_resumed_run_knows_its_data(rows, image_folder, tokenizer, tmp_path):
    """The same rows in another folder are the same data; another text or number of rows is not."""
    loader = load(untokenised(rows), tokenizer)
    iterator = iter(loader)
    next(iterator)
    state, want = iterator.get_state(), next(iterator)
    (tmp_path / "moved").mkdir()
    given = [llava_row(i) for i in range(40)]
    again = iter(load(untokenised(entry(tmp_path / "moved", image_folder, given)), tokenizer))
    again.set_state(state)
    assert same(next(again), want)
    others = [[*given[:-1], llava_row(39, answer="another")], given[:-1]]
    for number, other in enumerate(others):
        changed = iter(load(untokenised(entry(tmp_path, image_folder, other, f"{number}.jsonl")), tokenizer))
        with pytest.raises(UserError, match="does not fit this data set"):
            changed.set_state(state)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data.packing": 2, "data.buckets": SHAPE}, "data.packing=2 needs the length of every row; set it"),
        ({}, "there are 0 data.buckets, .* name it, such as data.buckets="),
        ({"data.buckets": ((32, 16), (64, 32))}, "there are 2 data.buckets"),
        ({"objective.name": "policy"}, "online RL tokenises its prompts first"),
    ],
)
def test_what_needs_lengths_is_an_error(changes, match):
    with pytest.raises(UserError, match=f"data.tokenize_first: false, but .*{match}"):
        configs.load("", {"data.tokenize_first": False, **changes})
    assert configs.load("", {"data.tokenize_first": False, "objective.name": "contrastive"})


def test_evaluation_measures_rows_all_the_same(rows, tokenizer):
    loader = load(untokenised(rows), tokenizer, batch_size=4)
    assert loader.data.index.lengths.min() < SHAPE[0][0]
