"""Padding of an epoch and what packing would save, against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.processing.processor import build_processor
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.report.data.padding import epoch_of, packed, packings, suggested
from pivot_jax.report.data.summary import lengths

SHORT, LONG = "a", "a" + " b" * 15
# A row of the plain template is its caption and a newline; " b" is one token of the tokenizer.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_bpe(["a b a b b b"], 262, folder)


def loader_of(tokenizer, captions, **data):
    rows = [{"id": str(i), "prompt": "q", "completion": caption} for i, caption in enumerate(captions)]
    cfg = configs.load("", {"tokenizer.path": str(tokenizer), "data.template": "plain", "data.images_per_row": 0})
    with cfg.unlocked():
        cfg.data.sources = ({"format": "trl", "path": rows},)
        cfg.data.update({"max_length": 64, "batch_size": 4, "shuffle": False, **data})
    processor = build_processor(cfg, load_tokenizer(tokenizer), "sft", patch_size=8)
    return cfg, build_loader(cfg, processor, batch_size=cfg.data.batch_size)


def test_an_epoch_counted_by_hand(tokenizer):
    """Six short rows of 2 tokens and three long ones of 17, in batches of 4 and buckets of 4 and 20 tokens.

    The ninth row is left out. The long rows 2 and 5 are in one batch, with two short ones.
    """
    captions = [SHORT, SHORT, LONG, SHORT, SHORT, LONG, SHORT, SHORT, LONG]
    _, loader = loader_of(tokenizer, captions, buckets=((4, 4), (20, 20)))
    assert loader.data.index.lengths.tolist() == [2, 2, 17, 2, 2, 17, 2, 2, 17]
    small, large = epoch_of(loader).uses
    assert (small.needing, small.batches, small.sequences, small.rows) == (6, 1, 4, 4)
    assert (large.needing, large.batches, large.sequences, large.rows) == (3, 1, 4, 4)
    assert (small.positions, small.used_tokens, large.positions, large.used_tokens) == (16, 8, 80, 38)
    assert (small.used_targets, large.used_targets) == (8 - 4, 38 - 4)  # nothing predicts a row's first token
    epoch = epoch_of(loader)
    assert epoch.padding == pytest.approx(1 - 46 / 96) and epoch.target_padding == pytest.approx(1 - 38 / 96)


def test_packing_counted_by_hand(tokenizer):
    """Four long rows and four short ones; two rows in a sequence, a long one with a short one, need 19 tokens."""
    cfg, loader = loader_of(tokenizer, [LONG, SHORT] * 4, buckets=((20, 20),), batch_size=8)
    found = {(one.packing, one.from_data): one for one in packings(cfg, loader.data, (1, 2, 4))}
    alone, pairs, fours = (found[k, False] for k in (1, 2, 4))
    assert alone.epoch.positions == 8 * 20 and alone.epoch.padding == pytest.approx(1 - 76 / 160)
    assert pairs.epoch.positions == 4 * 20 and pairs.epoch.padding == pytest.approx(1 - 76 / 80)
    assert fours.epoch is None and "need up to 38 tokens" in fours.reason
    # From the data: 17 tokens → 32, 19 → 32, 38 → 48.
    assert [found[k, True].buckets[0][0] for k in (1, 2, 4)] == [32, 32, 48]
    assert [found[k, True].epoch.positions for k in (1, 2, 4)] == [8 * 32, 4 * 32, 2 * 48]


def test_a_packing_that_does_not_divide_the_batch_says_so(tokenizer):
    cfg, loader = loader_of(tokenizer, [SHORT] * 8, batch_size=4)
    assert "data.packing: 8 does not divide the 4 rows" in packed(cfg, loader.data, 8).reason


def test_no_epoch_without_a_full_batch(tokenizer):
    _, loader = loader_of(tokenizer, [SHORT] * 3)
    assert epoch_of(loader).positions == 0 and epoch_of(loader).padding == 0.0


def test_suggested_buckets_hold_every_row():
    tokens = np.asarray([10] * 50 + [40] * 35 + [100] * 15)
    targets = np.asarray([3] * 50 + [2] * 35 + [30] * 15)
    assert suggested(tokens, targets) == ((16, 8), (48, 8), (112, 32))
    assert suggested(np.asarray([5, 5]), np.asarray([20, 1])) == ((16, 24),)


def test_lengths_are_those_of_the_rows():
    found = lengths(np.arange(1, 101))
    assert (found.mean, found.quantiles, found.largest, found.total) == (50.5, (50, 90, 99), 100, 5050)
