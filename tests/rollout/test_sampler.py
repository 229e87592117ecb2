"""The embedded sampler: what a token depends on, refill, ends, limits, static shapes, and errors before the start."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import RowError, UserError
from pivot_jax.kernels import decode
from pivot_jax.models import stacking
from pivot_jax.rollout import program
from pivot_jax.rollout.engine import Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import mllm, processing, rollouts

VOCAB, SHAPE = 31, Shape(slots=4, prompts=2, steps=4)
LENGTHS = (6, 9, 70, 7)
ANY = Sampling(10, stop_ids=(7, 8), banned_ids=(3,))


@pytest.fixture(scope="module")
def model():
    return mllm.tiny_mllm(VOCAB, gain=2.0)


def sampler_of(model, shape=SHAPE, made=None, **options):
    sampler = Sampler(model[0], made or rollouts.processor(), shape, **options)
    sampler.update(model[1], 5)
    return sampler


@pytest.fixture(scope="module")
def sampler(model):
    return sampler_of(model)


@pytest.fixture(scope="module")
def prompts():
    return rollouts.random_prompts(LENGTHS, VOCAB)


@pytest.fixture(scope="module")
def sampled(sampler, prompts):
    return sampler.generate(prompts, 8, ANY, (1, 2))


def equal(ours, theirs):
    """Bit for bit."""
    return all(
        np.array_equal(a.tokens, b.tokens)
        and np.array_equal(a.logps, b.logps)
        and np.array_equal(a.sampling_logps, b.sampling_logps)
        and a.finish == b.finish
        for a, b in zip(ours, theirs, strict=True)
    )


def test_responses_end_at_an_end_token_or_at_the_limit(sampled):
    """The end token is kept, nothing follows it, and a banned id is never sampled."""
    assert sampled.version == 5 and [len(group) for group in sampled.responses] == [8] * 4
    every = [response for group in sampled.responses for response in group]
    for response in every:
        tokens, ended = response.tokens, np.isin(response.tokens, ANY.stop_ids)
        assert not ended[:-1].any() and ended[-1] == (response.finish == "stop")
        assert len(tokens) == 10 or response.finish == "stop"
        assert len(tokens) == len(response.logps) == len(response.sampling_logps) and 3 not in tokens
    assert {response.finish for response in every} == {"stop", "length"}
    assert len({tuple(response.tokens) for response in every}) > 28


def test_a_response_is_the_same_whatever_shares_the_batch(sampler, prompts, sampled):
    """Alone, in another order, with other companions, as the third of fewer responses."""
    alone = sampler.generate([prompts[1]], 8, ANY, (1, 2))
    assert equal(alone.responses[0], sampled.responses[1])
    turned = sampler.generate(prompts[::-1], 3, ANY, (1, 2))
    for mine, theirs in zip(turned.responses[::-1], sampled.responses, strict=True):
        assert equal(mine, theirs[:3])
    others = [
        dataclasses.replace(one, number=90 + i) for i, one in enumerate(rollouts.random_prompts((8, 6), VOCAB, 7))
    ]
    beside = sampler.generate([others[0], prompts[3], others[1]], 5, ANY, (1, 2))
    assert equal(beside.responses[1], sampled.responses[3][:5])


def test_seed_rollout_and_number_change_the_samples(sampler, prompts, sampled):
    for seed in ((0, 2), (1, 3)):
        other = sampler.generate(prompts[:1], 8, ANY, seed)
        assert not equal(other.responses[0], sampled.responses[0])
    renamed = dataclasses.replace(prompts[0], number=77)
    assert not equal(sampler.generate([renamed], 8, ANY, (1, 2)).responses[0], sampled.responses[0])


def test_a_prompt_s_own_limit(sampler, prompts):
    mine = [dataclasses.replace(one, max_tokens=limit) for one, limit in zip(prompts, (1, 3, 0, 50), strict=True)]
    found = sampler.generate(mine, 2, Sampling(6), (0, 0))
    assert [[len(r.tokens) for r in group] for group in found.responses] == [[1] * 2, [3] * 2, [6] * 2, [6] * 2]
    assert all(r.finish == "length" for group in found.responses for r in group)


def test_nothing_is_compiled_after_the_first_rollout(sampler, sampled, prompts):
    """Other prompts, lengths in the same buckets, temperature, values of top-p and top-k, ids, numbers of responses."""
    sampler.generate(prompts, 2, Sampling(10, top_p=0.5, top_k=8), (0, 0))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    others = rollouts.random_prompts((6, 90, 64, 12, 8), VOCAB, seed=3)
    sampler.generate(others, 3, Sampling(14, temperature=0.7, stop_ids=(1,), banned_ids=(2, 5)), (8, 9))
    sampler.generate(others[:1], 1, Sampling(3, temperature=0.7, top_p=0.9, top_k=4), (8, 9))
    assert not compiled
    jax.jit(lambda x: x + len(compiled))(1.5)
    assert compiled  # the listener hears compilations


def test_other_slots_blocks_and_cache_sizes_agree(model, sampled, prompts):
    """Sums of other shapes round otherwise: a draw within 1e-5 of a boundary may differ, no other."""
    for shape in (Shape(slots=1, prompts=1, steps=3), Shape(slots=16, prompts=4, steps=32)):
        other = sampler_of(model, shape).generate(prompts, 8, ANY, (1, 2))
        rollouts.assert_agree(model, rollouts.processor(), prompts, sampled, other, ANY, (1, 2))


def test_the_cache_grows_and_shrinks_with_the_rows(model, monkeypatch):
    """A long response among short ones; each is as if it were alone."""
    sizes = []
    resize = program.resize
    monkeypatch.setattr(
        program, "resize", lambda config, cache, size: sizes.append(size) or resize(config, cache, size)
    )
    shape = Shape(slots=2, prompts=1, steps=16)
    prompts = rollouts.random_prompts((100, 6, 7, 8), VOCAB)
    prompts = [dataclasses.replace(one, max_tokens=limit) for one, limit in zip(prompts, (170, 3, 40, 90), strict=True)]
    sampler = sampler_of(model, shape)
    together = sampler.generate(prompts, 1, Sampling(200), (0, 0))
    assert sizes[:2] == [256, 512] and [len(g[0].tokens) for g in together.responses] == [170, 3, 40, 90]
    alone = [sampler.generate([one], 1, Sampling(200), (0, 0)).responses[0] for one in prompts]
    whole = dataclasses.replace(together, responses=tuple(alone))
    rollouts.assert_agree(model, rollouts.processor(), prompts, together, whole, Sampling(200), (0, 0))
    sizes.clear()
    late = [dataclasses.replace(one, max_tokens=200 if i == 1 else 3) for i, one in enumerate(prompts)]
    sampler.generate([late[1], dataclasses.replace(late[0], max_tokens=100)], 1, Sampling(200), (0, 0))
    assert sizes and sizes[-1] >= 256


def test_greedy_equals_the_most_likely_tokens_of_whole_forwards(model, prompts):
    found = sampler_of(model).generate(prompts, 2, Sampling(8, temperature=0.0), (0, 0))
    for one, group in zip(prompts, found.responses, strict=True):
        assert np.array_equal(group[0].tokens, group[1].tokens) and (group[0].sampling_logps == 0).all()
        tokens = list(one.row.tokens)
        for step, token in enumerate(group[0].tokens):
            logits = rollouts.next_logits(model, rollouts.processor(), one, tokens[len(one.row.tokens) :])
            assert token == int(np.argmax(logits)), step
            tokens.append(int(token))


def test_the_tpu_kernel_samples_the_same(model, prompts, sampled, monkeypatch):
    """In the interpreter; other steps, so that the program is traced anew."""
    monkeypatch.setitem(decode.AUTO, "cpu", "pallas_tpu")
    shape = dataclasses.replace(SHAPE, steps=5)
    other = sampler_of(model, shape).generate(prompts[:2], 8, ANY, (1, 2))
    part = dataclasses.replace(sampled, responses=sampled.responses[:2])
    rollouts.assert_agree(model, rollouts.processor(), prompts[:2], part, other, ANY, (1, 2))


def test_prompts_without_images_and_no_prompts_at_all(model, sampler):
    texts = rollouts.random_prompts((6, 9), VOCAB, images=False)
    mixed = [texts[0], dataclasses.replace(rollouts.random_prompts((7, 7), VOCAB)[1], number=50)]
    together, alone = (sampler.generate(rows, 3, ANY, (1, 2)) for rows in (mixed, texts[:1]))
    assert equal(together.responses[0], alone.responses[0])
    assert sampler.generate([], 3, ANY, (1, 2)).responses == ()


def test_parameters_are_used_without_a_copy_and_in_both_layouts(model):
    """Layers apart: the very arrays. Stacked: the same samples."""
    module, params = model
    params = jax.tree.map(jax.numpy.asarray, params)
    blocks = stacking.per_layer(params)["decoder"]["blocks"]
    apart = {**params, "decoder": {**params["decoder"], "blocks": blocks}}
    sampler = sampler_of((module, apart))
    first = sampler.weights.layers[1]["attn"]["q"]["kernel"]
    assert first.unsafe_buffer_pointer() == blocks["attn"]["q"]["kernel"][1].unsafe_buffer_pointer()
    assert sampler.weights.head.unsafe_buffer_pointer() == params["decoder"]["embed"].unsafe_buffer_pointer()
    prompts = rollouts.random_prompts((6, 9), VOCAB)
    mine, theirs = (one.generate(prompts, 2, ANY, (0, 0)) for one in (sampler, sampler_of(model)))
    assert all(map(equal, mine.responses, theirs.responses))
    sampler.update(jax.tree.map(lambda x: 1.1 * x, params), 6)
    other = sampler.generate(prompts, 2, ANY, (0, 0))
    assert other.version == 6 and not all(map(equal, other.responses, theirs.responses))


@pytest.mark.heavy
def test_half_precision(model):
    module, params = mllm.tiny_mllm(VOCAB, gain=2.0)
    module = type(module)(dataclasses.replace(module.config, dtype="bfloat16"))
    prompts = rollouts.random_prompts(LENGTHS, VOCAB)
    found = sampler_of((module, params)).generate(prompts, 4, ANY, (0, 0))
    logps = rollouts.trained_logps(module, params, rollouts.processor(), prompts, found.responses, ANY)
    gaps = np.concatenate(
        [a - b.logps for x, y in zip(logps, found.responses, strict=True) for a, b in zip(x, y, strict=True)]
    )
    assert np.abs(gaps).mean() < 0.05 and np.abs(gaps).max() < 0.5


def test_images_are_read_once_per_prompt(model, prompts):
    read = []

    def images(references):
        read.append(id(references[0]))
        return rollouts.processor().read_images(references)

    sampler_of(model, reader=ImageReader(images)).generate(prompts, 8, ANY, (1, 2))
    assert sorted(read) == sorted(id(one.row.images[0]) for one in prompts)


def test_an_image_that_cannot_be_read_names_its_row(model, prompts):
    bad = dataclasses.replace(prompts[0].row, images=("no/such.png",))
    with pytest.raises(RowError, match="row 'row0'.*no/such.png"):
        sampler_of(model).generate([dataclasses.replace(prompts[0], row=bad)], 1, ANY, (0, 0))


WRONG = {
    "n is 0; a prompt has at least 1 response": dict(n=0),
    "max_tokens is 0; a response has at least 1 token": dict(max_tokens=0),
    "temperature is -1; it is 0": dict(temperature=-1),
    "top_p is 0; it is above 0": dict(top_p=0),
    "top_k is -2": dict(top_k=-2),
    "min_p is 1.5": dict(min_p=1.5),
    "stop_ids holds 31; the model's ids are 0 to 30": dict(stop_ids=(31,)),
    "banned_ids holds -1": dict(banned_ids=(-1,)),
    "stop_ids and banned_ids both hold 4": dict(stop_ids=(4,), banned_ids=(4,)),
    "banned_ids holds all ids": dict(banned_ids=tuple(range(31))),
    "row 'row2': the prompt has 70 tokens and its response up to 31; the cache holds 100": dict(max_tokens=31),
    "stop strings need a tokenizer": dict(stop=("a",)),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_requests_are_refused_before_the_first_token(model, prompts, message, monkeypatch):
    sampler = sampler_of(model, dataclasses.replace(SHAPE, longest=100))
    monkeypatch.setattr(program, "read", None)
    changes = {"max_tokens": 10, **WRONG[message]}
    n = changes.pop("n", 1)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        sampler.generate(prompts, n, Sampling(**changes), (0, 0))


def test_other_bad_arguments(model, prompts):
    sampler = sampler_of(model)
    with pytest.raises(UserError, match="rows 'row0' and 'row0' have the same number 0"):
        sampler.generate([prompts[0], prompts[0]], 1, ANY, (0, 0))
    with pytest.raises(RowError, match="max_tokens is -1"):
        sampler.generate([dataclasses.replace(prompts[0], max_tokens=-1)], 1, ANY, (0, 0))
    empty = dataclasses.replace(prompts[0], row=rollouts.row("empty", []))
    with pytest.raises(RowError, match="row 'empty': the prompt has no token"):
        sampler.generate([empty], 1, ANY, (0, 0))
    with pytest.raises(UserError, match="the sampler's slots are 0"):
        Sampler(model[0], None, Shape(slots=0))
    with pytest.raises(ValueError, match="call update first"):
        Sampler(model[0], None).generate(prompts, 1, ANY, (0, 0))


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A model that writes text, and its processor."""
    folder = train_bpe(["What colour is it? red green blue yellow"] * 4, 300, tmp_path_factory.mktemp("tokenizer"))
    made = processing.processor(load_tokenizer(folder), max_length=128)
    return mllm.tiny_mllm(300, gain=2.0), made


def test_stop_strings_end_a_response_with_the_token_that_completes_them(writer):
    """The same samples, truncated: within a block, across blocks, and in the middle of a token."""
    model, made = writer
    tokenizer = made.chat.tokenizer
    sampler = sampler_of(model, made=made)
    prompts = rollouts.random_prompts((6, 9, 7), 300)
    free = sampler.generate(prompts, 6, Sampling(24), (0, 0))
    text = lambda tokens: tokenizer.decode(tokens, skip_special_tokens=False)  # noqa: E731
    every = [r for group in free.responses for r in group]
    stop = (text(every[0].tokens[5:7]).strip(), text(every[8].tokens[10:11]).strip())
    assert all(stop)
    stopped = sampler.generate(prompts, 6, Sampling(24, stop=stop), (0, 0))
    ended = 0
    for mine, whole in zip([r for group in stopped.responses for r in group], every, strict=True):
        first = next((k for k in range(1, 25) if any(s in text(whole.tokens[:k]) for s in stop)), None)
        assert np.array_equal(mine.tokens, whole.tokens[:first]) and len(mine.logps) == len(mine.tokens)
        assert mine.finish == ("length" if first is None else "stop")
        ended += first is not None
    assert ended >= 2


def test_stop_strings_that_cannot_be_sampled(writer):
    model, made = writer
    sampler = sampler_of(model, made=made)
    prompts = rollouts.random_prompts((6,), 300)
    with pytest.raises(UserError, match="a stop string is empty"):
        sampler.generate(prompts, 1, Sampling(4, stop=("",)), (0, 0))
    lone = made.chat.tokenizer("red", add_special_tokens=False)["input_ids"]
    with pytest.raises(UserError, match="'red' can never be sampled: it takes the banned ids"):
        sampler.generate(prompts, 1, Sampling(4, stop=("red",), banned_ids=tuple(lone)), (0, 0))
