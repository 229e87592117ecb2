"""Decoding with the cache equals decoding by whole forwards; rows end, batches pad, options rank."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.data.processing.batch import EncodedRow, PromptBatch, VLMBatch
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.eval import ranking
from pivot_jax.kernels import decode
from pivot_jax.models.generate import Sampling, generate
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import head_matrix
from tests.tiny import mllm

VOCAB, NEW = 31, 5
NO_END = (-1, -2)


@pytest.fixture(scope="module")
def model():
    return mllm.tiny_mllm(VOCAB, gain=2.0)


def prompts(lengths, seed=0, n=None):
    """Random prompts, each with an image at positions 1..4."""
    generator = np.random.default_rng(seed)
    n = n or max(lengths)
    b = len(lengths)
    tokens = np.zeros((b, n), np.int32)
    slots = np.full((b, n), -1, np.int32)
    segments = np.zeros((b, n), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = generator.integers(0, VOCAB, length)
        segments[row, :length] = 1
        if length:
            slots[row, 1 : 1 + mllm.PATCHES] = np.arange(mllm.PATCHES)
    images = generator.integers(0, 255, (b, 1, 8, 8, 3)).astype(np.uint8)
    positions = np.broadcast_to(np.arange(n, dtype=np.int32), (b, n))
    return PromptBatch(images, tokens, slots, positions, segments, np.arange(b, dtype=np.int32))


def last_logits(model, length):
    """Logits after the n-th token of one row of ``length`` tokens, from a forward over the whole row."""
    module, params = model

    @jax.jit
    def compute(batch, n):
        hidden = module.apply({"params": params}, batch, method="hidden")
        return hidden[0, n - 1] @ head_matrix(params).T

    def logits(images, tokens, slots):
        n = len(tokens)
        batch = PromptBatch(
            images,
            np.array([tokens + [0] * (length - n)], np.int32),
            np.array([slots + [-1] * (length - n)], np.int32),
            np.arange(length, dtype=np.int32)[None],
            np.array([[1] * n + [0] * (length - n)], np.int32),
            np.zeros(1, np.int32),
        )
        return compute(batch, n)

    return logits


def by_whole_forwards(logits, batch, row, steps):
    """Greedy continuation of one row, each token from a forward over everything so far."""
    length = int(batch.segments[row].sum())
    tokens, slots = batch.tokens[row, :length].tolist(), batch.image_slots[row, :length].tolist()
    logps = []
    for _ in range(steps):
        found = logits(batch.images[row : row + 1], tokens, slots)
        tokens, slots = [*tokens, int(jnp.argmax(found))], [*slots, -1]
        logps.append(float(jax.nn.log_softmax(found)[tokens[-1]]))
    return tokens[length:], logps


@pytest.fixture(scope="module")
def free(model):
    """Three prompts and their unended greedy answers."""
    batch = prompts([6, 9, 7])
    return batch, generate(*model, batch, Sampling(NEW, NO_END))


def test_greedy_with_cache_equals_whole_forwards(model, free):
    batch, out = free
    assert out.lengths.tolist() == [NEW] * 3 and not out.finished.any()
    logits = last_logits(model, 9 + NEW)
    for row in range(3):
        tokens, logps = by_whole_forwards(logits, batch, row, NEW)
        assert out.ids(row) == tokens
        np.testing.assert_allclose(out.logps[row], logps, atol=2e-4)
    assert len({tuple(out.ids(row)) for row in range(3)}) > 1


def test_rows_end_at_their_own_end_token(model, free):
    batch, unended = free
    ends = (int(unended.tokens[0, 2]), int(unended.tokens[1, 3]))
    out = generate(*model, batch, Sampling(NEW, ends, 30))
    for row in range(3):
        whole = unended.ids(row)
        stop = next((i for i, token in enumerate(whole) if token in ends), NEW)
        assert out.lengths[row] == stop and out.ids(row) == whole[:stop]
        assert out.finished[row] == (stop < NEW)
        assert out.response(row) == whole[: stop + 1] and len(out.response(row)) == min(stop + 1, NEW)
        assert (out.tokens[row, stop + 1 :] == 30).all()


def test_padding_and_masked_rows_change_nothing(model, free):
    batch, unended = free
    wide = prompts([6, 9, 7], n=14)
    masked = wide.replace(segments=wide.segments * np.array([[1], [1], [0]], np.int32))
    out = generate(*model, masked, Sampling(NEW, NO_END, 3))
    assert np.array_equal(batch.tokens, wide.tokens[:, :9])
    assert np.array_equal(unended.tokens[:2], out.tokens[:2])
    assert out.lengths[2] == 0 and (out.tokens[2] == 3).all() and out.response(2) == []


def test_sampling_is_seeded_and_follows_the_distribution(model):
    one = prompts([6])
    many = jax.tree.map(lambda x: np.repeat(x, 1000, 0), one)

    def sample(temperature, seed):
        key = jax.random.key(seed)
        return generate(*model, many, Sampling(1, NO_END, temperature=temperature), key=key).tokens[:, 0]

    first = sample(1.3, 1)
    assert np.array_equal(first, sample(1.3, 1)) and not np.array_equal(first, sample(1.3, 2))
    logits = last_logits(model, 6)(one.images, one.tokens[0].tolist(), one.image_slots[0].tolist())
    expected = np.asarray(jax.nn.softmax(logits / 1.3))
    assert np.abs(np.bincount(first, minlength=VOCAB) / 1000 - expected).max() < 0.05
    assert (sample(1e-4, 1) == expected.argmax()).all()


def test_responses_share_their_prompt_and_equal_separate_generations(model, free):
    """Greedy: each equals its prompt's one answer. Sampled: equal to prompts that are repeated in the batch."""
    batch, alone = free
    greedy = generate(*model, batch, Sampling(NEW, NO_END), responses=2)
    assert np.array_equal(greedy.tokens, np.repeat(alone.tokens, 2, axis=0))
    np.testing.assert_allclose(greedy.logps, np.repeat(alone.logps, 2, axis=0), atol=1e-5)

    masked = batch.replace(segments=batch.segments * np.array([[1], [0], [1]], np.int32))
    repeated = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), masked)
    sampled = {"sampling": Sampling(NEW, (7, 8), 30, 1.5), "key": jax.random.key(3)}
    shared, apart = generate(*model, masked, responses=3, **sampled), generate(*model, repeated, **sampled)
    for mine, theirs in zip(shared[:3], apart[:3], strict=True):
        assert np.array_equal(mine, theirs)
    np.testing.assert_allclose(shared.logps, apart.logps, atol=1e-5)
    assert (shared.lengths[3:6] == 0).all() and len({tuple(shared.ids(row)) for row in (0, 1, 2)}) == 3


def test_the_tpu_kernel_gives_the_same_answers(model, free, monkeypatch):
    """In the interpreter; one token fewer, so that the program is traced anew."""
    monkeypatch.setitem(decode.AUTO, "cpu", "pallas_tpu")
    batch, alone = free
    out = generate(*model, batch, Sampling(NEW - 1, NO_END), responses=2)
    assert np.array_equal(out.tokens, np.repeat(alone.tokens[:, : NEW - 1], 2, axis=0))


def test_a_prompts_cache_is_not_repeated_for_its_responses(model):
    module, params = model
    batch = prompts([6, 9, 7])
    prefill = lambda batch: module.apply({"params": params}, batch, NEW, None, 4, method="prefill")  # noqa: E731
    cache, state = jax.eval_shape(prefill, batch)
    assert cache.prompt.keys.shape == (2, 3, 2, 9, 4) and cache.keys.shape == (2, 12, 2, NEW, 4)
    assert state.shape == (12, 16)


def test_bad_arguments_say_what_is_wrong(model):
    module, params = model
    batch = prompts([6])
    with pytest.raises(ValueError, match="random key"):
        generate(module, params, batch, Sampling(2, (), temperature=1.0))
    with pytest.raises(ValueError, match="at least 1"):
        Sampling(0, ())
    with pytest.raises(ValueError, match="responses is 0"):
        generate(module, params, batch, Sampling(2, ()), responses=0)
    with pytest.raises(ValueError, match="0 \\(greedy\\) or above"):
        Sampling(2, (), temperature=-1)


def encoded(batch, row):
    length = int(batch.segments[row].sum())
    empty = np.zeros(0, np.int32)
    return EncodedRow(
        str(row), batch.tokens[row, :length], batch.image_slots[row, :length], batch.positions[row, :length],
        np.zeros(length, np.int32), empty, empty, empty,
    )  # fmt: skip


def collated(rows, images):
    """Right padded VLMBatch of encoded rows."""

    def pad(field, value):
        arrays = [getattr(row, field) for row in rows]
        width = max(map(len, arrays))
        return np.stack([np.concatenate([a, np.full(width - len(a), value)]) for a in arrays]).astype(np.int32)

    widths = [len(row.targets) for row in rows]
    weights = np.stack([np.arange(max(widths)) < w for w in widths]).astype(np.float32)
    segments = np.stack([np.arange(max(len(r.tokens) for r in rows)) < len(r.tokens) for r in rows]).astype(np.int32)
    return VLMBatch(
        images, pad("tokens", 0), pad("image_slots", -1), pad("positions", 0), segments, pad("branches", 0),
        pad("sources", 0), pad("targets", 0), weights, pad("target_branches", 0),
        np.zeros(weights.shape, np.int32), np.arange(len(rows), dtype=np.int32)[:, None],
    )  # fmt: skip


def test_option_logps_equal_separate_forwards(model):
    module, params = model
    batch = prompts([6, 9])
    options = [[[3, 4], [5], [6, 7, 8]], [[9], [10, 11]]]
    rows = [group_row(encoded(batch, row), options[row]) for row in range(2)]
    sums, counts = ranking.option_logps(module, params, collated(rows, batch.images), max_options=3)
    assert counts.tolist() == [[2, 1, 3], [1, 2, 0]] and sums[1, 2] == -np.inf
    cells = [(row, index) for row in range(2) for index in range(len(options[row]))]
    alone = [group_row(encoded(batch, row), [options[row][index]]) for row, index in cells]
    images = batch.images[[row for row, _ in cells]]
    single, _ = ranking.option_logps(module, params, collated(alone, images), max_options=1)
    np.testing.assert_allclose([sums[cell] for cell in cells], single[:, 0], atol=2e-4)


def test_responses_are_scored_with_the_log_probs_that_they_were_generated_with(model, free):
    """Responses keep their end token, so they are the rows that a group is scored and trained on."""
    module, params = model
    batch, unended = free
    ends = (int(unended.tokens[0, 2]), int(unended.tokens[1, 3]))
    key = jax.random.key(5)
    out = generate(*model, batch, Sampling(NEW, ends, 30, 1.0), responses=4, key=key)
    answers = [out.response(row) for row in range(12)]
    assert any(answer[-1] in ends for answer in answers) and not out.finished.all()
    rows = [group_row(encoded(batch, row), answers[4 * row : 4 * row + 4]) for row in range(3)]
    logps = [out.logps[row, : len(answers[row])] for row in range(12)]
    values = {"old_logps": [np.concatenate(logps[4 * row : 4 * row + 4]) for row in range(3)]}
    scored = vlm_batch(
        rows, ImageArrays(batch.images), np.arange(3), (40, 4 * NEW), Collation(0, mllm.PATCHES), target_values=values
    )
    found = score(module, params, scored).logps * scored.weights
    np.testing.assert_allclose(found, scored.old_logps, atol=2e-4)


def test_rank_normalisations():
    sums = np.array([[-4.0, -3.0, -np.inf]])
    counts = np.array([[4, 1, 0]])
    assert ranking.rank(sums, counts, "sum").tolist() == [1]
    assert ranking.rank(sums, counts, "mean").tolist() == [0]
    assert ranking.rank(sums, counts, "prior", np.array([[-9.0, -3.5, -np.inf]])).tolist() == [0]
