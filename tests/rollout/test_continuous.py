"""Requests that join and leave while others are decoded: each response is the one that the sampler gives it alone."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from pivot_jax.errors import RowError, UserError
from pivot_jax.rollout.continuous import Continuous
from pivot_jax.rollout.engine import Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import mllm, rollouts

VOCAB, SHAPE, ENDS = 31, Shape(slots=4, prompts=2, steps=4), (7, 8)
WAYS = (  # of each prompt: how often, and how
    (1, Sampling(10, temperature=0.0)),
    (3, Sampling(9)),
    (2, Sampling(12, temperature=0.7, top_p=0.8)),
    (2, Sampling(3, temperature=1.5, top_k=5)),
    (1, Sampling(20, temperature=0.0)),
    (2, Sampling(8, min_p=0.05)),
)


@pytest.fixture(scope="module")
def model():
    return mllm.tiny_mllm(VOCAB, gain=2.0)


@pytest.fixture(scope="module")
def sampler(model):
    made = Sampler(model[0], rollouts.processor(), SHAPE)
    made.update(model[1], 0)
    return made


@pytest.fixture(scope="module")
def prompts():
    return rollouts.random_prompts((6, 9, 70, 7, 12, 6), VOCAB)


def alone(sampler, prompt, n, sampling):
    """What the closed list of this prompt gives."""
    whole = dataclasses.replace(sampling, stop_ids=ENDS)
    return sampler.generate([prompt], n, whole, (0, 0)).responses[0]


def run(continuous, found=None):
    """Steps to the end; (prompt index, response index) → response."""
    found = {} if found is None else found
    while continuous.busy:
        found |= {(request.prompt, request.response): response for request, response in continuous.step()}
    return found


def assert_same(mine, theirs):
    assert mine.tokens.tolist() == theirs.tokens.tolist() and mine.finish == theirs.finish
    np.testing.assert_allclose(mine.logps, theirs.logps, atol=1e-5)
    np.testing.assert_allclose(mine.sampling_logps, theirs.sampling_logps, atol=1e-5)


def test_requests_of_different_samplings_share_the_slots(sampler, prompts):
    """Greedy, sampled and truncated ones together, of which some join when others have begun."""
    continuous, found, requests = Continuous(sampler, ENDS), {}, []
    for prompt, (n, sampling) in zip(prompts, WAYS, strict=True):
        requests.append(continuous.add(prompt, n, sampling))
        found |= {(request.prompt, request.response): response for request, response in continuous.step()}
    run(continuous, found)
    assert not continuous.busy and continuous.step() == []
    for prompt, (n, sampling), group in zip(prompts, WAYS, requests, strict=True):
        expected = alone(sampler, prompt, n, sampling)
        assert len(group) == n
        for request, theirs in zip(group, expected, strict=True):
            assert_same(found[request.prompt, request.response], theirs)
            assert request.tokens == theirs.tokens.tolist()


def test_dropped_requests_free_their_slots(sampler, prompts):
    """In the queue, read and waiting, in a slot, and finished; the others' responses do not change."""
    continuous = Continuous(sampler, ENDS)
    first = continuous.add(prompts[0], 7, Sampling(40))  # more than the slots: some wait
    stay = continuous.add(prompts[1], 2, Sampling(9))
    last = continuous.add(prompts[2], 1, Sampling(9))
    found = {(request.prompt, request.response): response for request, response in continuous.step()}
    continuous.drop([*first, *last])
    continuous.drop(first)
    found |= run(continuous)
    for request, theirs in zip(stay, alone(sampler, prompts[1], 2, Sampling(9)), strict=True):
        assert_same(found[request.prompt, request.response], theirs)
    assert (last[0].prompt, 0) not in found and not last[0].tokens
    continuous.drop(stay)
    again = continuous.add(prompts[0], 1, Sampling(10, temperature=0.0))
    (response,) = alone(sampler, prompts[0], 1, Sampling(10, temperature=0.0))
    assert_same(run(continuous)[again[0].prompt, 0], response)


@pytest.mark.parametrize("sampling", [Sampling(6, temperature=0.0), Sampling(6, temperature=0.5, top_k=4)])
def test_alternatives_are_those_of_the_model_at_temperature_1(model, sampler, prompts, sampling):
    """Log-probs of all words from a whole forward pass; of a token that is the first, exactly the first."""
    continuous = Continuous(sampler, ENDS)
    (plain,) = continuous.add(prompts[3], 1, Sampling(12))
    (request,) = continuous.add(prompts[1], 1, sampling, ranked=True)
    (response,) = [response for key, response in run(continuous).items() if key[0] == request.prompt]
    logps, top, top_logps = (np.concatenate(parts) for parts in zip(*request.alternatives, strict=True))
    assert len(logps) == len(response.tokens) and top.shape == (len(logps), 20) and not plain.alternatives
    for step, token in enumerate(response.tokens):
        logits = rollouts.next_logits(model, rollouts.processor(), prompts[1], response.tokens[:step])
        expected = np.asarray(jax.nn.log_softmax(logits))
        np.testing.assert_allclose(logps[step], expected[token], atol=1e-5)
        np.testing.assert_allclose(top_logps[step], np.sort(expected)[::-1][:20], atol=1e-5)
        np.testing.assert_allclose(expected[top[step]], top_logps[step], atol=1e-5)
        assert (token == top[step, 0]) == (logps[step] == top_logps[step, 0])


def test_bad_requests_leave_the_others(sampler, prompts):
    continuous = Continuous(sampler, ENDS)
    (good,) = continuous.add(prompts[0], 1, Sampling(10, temperature=0.0))
    with pytest.raises(UserError, match="top_p is 0"):
        continuous.add(prompts[1], 1, Sampling(4, top_p=0))
    with pytest.raises(RowError, match="the prompt has no token"):
        empty = dataclasses.replace(prompts[0], row=rollouts.row("empty", []))
        continuous.add(empty, 1, Sampling(4))
    with pytest.raises(ValueError, match="those of all requests"):
        continuous.add(prompts[1], 1, Sampling(4, stop_ids=(1,)))
    (response,) = alone(sampler, prompts[0], 1, Sampling(10, temperature=0.0))
    assert_same(run(continuous)[good.prompt, 0], response)
