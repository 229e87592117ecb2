"""What can be served: whole models, language models alone, packs with a tokenizer; and what cannot."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.errors import UserError
from pivot_jax.eval.text.ability import prompt_row
from pivot_jax.models.language_model import text_batch
from pivot_jax.models.logprobs import score
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.serve.answers import Answers
from pivot_jax.serve.asked import Limits, chat, completion
from pivot_jax.serve.failure import Failure
from pivot_jax.serve.likelihood import likelihoods
from pivot_jax.serve.model import open_served, served_of
from pivot_jax.serve.scheduler import Scheduler
from pivot_jax.train.model import processor_of
from tests.serve.conftest import data_url, opened
from tests.tiny import hf, runs

LIMITS = Limits(64, 1 << 20, 1)


@pytest.fixture(scope="module")
def parts():
    """A LLaVA folder, its parts, and what import-hf makes of them."""
    return runs.once("serve_parts", hf.parts_and_imports)


def answer(served, body):
    """The reply to a chat, or to a completion, from a scheduler of its own."""
    scheduler = Scheduler(served, 4)
    scheduler.start()
    try:
        answers = Answers(served, scheduler)
        if "prompt" in body:
            asked = completion(body, served.name, LIMITS)
            return asyncio.run(answers.completion(asked, [served.text_row(prompt) for prompt in asked.prompts]))
        asked = chat(body, served.name, dataclasses.replace(LIMITS, images=served.images))
        return asyncio.run(answers.chat(asked, served.row(asked, LIMITS.pixels)))
    finally:
        scheduler.stop()


def test_a_run_and_a_folder_of_one_model_answer_alike(parts, folder):
    """`import-hf` of a LLaVA, and the folder itself; with an image."""
    image = {"type": "image_url", "image_url": {"url": data_url(folder / "0.png")}}
    turn = [{"role": "user", "content": [image, {"type": "text", "text": "what colour?"}]}]
    replies = []
    for source in (f"run:{parts / 'whole_here'}", f"hf:{parts / 'whole'}"):
        served = open_served(source)
        assert served.images == 1
        replies.append(answer(served, {"model": served.name, "messages": turn, "temperature": 0, "max_tokens": 12}))
    assert [reply["model"] for reply in replies] == ["whole_here", "whole"]
    contents = [reply["choices"][0]["message"]["content"] for reply in replies]
    assert contents[0] == contents[1] and replies[0]["usage"] == replies[1]["usage"]


def test_a_language_model_alone_answers_text(parts, folder):
    """From a folder, and from a pack with the tokenizer of another folder; images are an error of the request."""
    folder_, pack = open_served(f"hf:{parts / 'decoder'}", name="lm"), f"pack:{parts / 'decoder_here'}"
    packed = open_served(pack, name="lm", tokenizer=str(parts / "decoder"))
    body = {"model": "lm", "messages": [{"role": "user", "content": "how many?"}], "temperature": 0, "max_tokens": 9}
    replies = [answer(served, body) for served in (folder_, packed)]
    assert replies[0]["choices"] == replies[1]["choices"] and replies[0]["usage"]["completion_tokens"]
    tokenizer = folder_.tokenizer
    text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert replies[0]["usage"]["prompt_tokens"] == len(ids)
    raw = answer(folder_, {"model": "lm", "prompt": ids, "temperature": 0, "max_tokens": 9})
    assert raw["choices"][0]["text"].strip() == replies[0]["choices"][0]["message"]["content"]
    with pytest.raises(Failure, match="1 image, and this model takes none"):
        image = {"type": "image_url", "image_url": {"url": data_url(folder / "0.png")}}
        chat(
            {"model": "lm", "messages": [{"role": "user", "content": [image]}]},
            "lm",
            dataclasses.replace(LIMITS, images=0),
        )


def test_several_images_are_read_in_their_order(folder):
    """A model of two images in a row: the answers are those of eval, and others where the images are swapped."""
    run = opened(folder)
    config = run.config.copy_and_resolve_references()
    config.data.images_per_row = 2
    processor = processor_of(config, run.mllm, run.processor.chat.tokenizer, "prompt", max_length=512)
    served = served_of(dataclasses.replace(run, config=config, processor=processor), "two")
    assert served.images == 2
    own = dataclasses.replace(opened(folder), config=config, processor=processor)
    paths = [str(folder / f"{i}.png") for i in (0, 1)]
    found = []
    for first, second in (paths, paths[::-1]):
        parts = [("<image>\n", first), ("then ", None), ("<image>\n", second), ("What changes?", None)]
        content = [
            {"type": "text", "text": text}
            if path is None
            else {"type": "image_url", "image_url": {"url": data_url(Path(path))}}
            for text, path in parts
        ]
        body = {"model": "two", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 20}
        found.append(answer(served, body)["choices"][0]["message"]["content"])
        example = Example("0", (Message("user", "".join(text for text, _ in parts)),), (first, second))
        assert found[-1] == own.answerer(4).answer([example], 20)[0].text
    assert found[0] != found[1]


def test_what_cannot_be_served(parts, folder):
    cases = {
        f"hf:{parts / 'encoder'}": "is an encoder without a language model, which answers nothing",
        f"pack:{parts / 'encoder_here'}": "is an encoder without a language model",
        f"pack:{parts / 'decoder_here'}": "a pack, which has no tokenizer; name its folder with --tokenizer",
        f"{folder / 'run'}": "is not a weight source.*did you mean 'run:",
        f"run:{folder / 'none'}": "none",
    }
    for source, says in cases.items():
        with pytest.raises(UserError, match=says):
            open_served(source)
    with pytest.raises(UserError, match="has a tokenizer of its own; leave the option out"):
        open_served(f"run:{folder / 'run'}", tokenizer=str(folder / "tokenizer"))
    with pytest.raises(UserError, match="the tokenizer has .* tokens and the model .*; they do not belong together"):
        open_served(f"pack:{parts / 'decoder_here'}", tokenizer=str(folder / "tokenizer"))


def test_likelihoods_are_those_of_training(served):
    """`models.logprobs.score` of the same texts; whatever is scored together, and how many words are asked for."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 320, length).tolist() for length in (1, 5, 64, 65, 130)]
    batch = text_batch(prompts, served.module.config.decoder)
    expected = np.asarray(score(served.module, served.params, batch).logps)
    together = likelihoods(served.module, served.params, prompts, 5)
    for ids, one, logps in zip(prompts, together, expected, strict=True):
        assert len(one.logps) == len(ids) and one.top.shape == one.top_logps.shape == (len(ids), 5)
        np.testing.assert_allclose(one.logps[:-1], logps[: len(ids) - 1], atol=1e-4)
        assert one.logps[-1] == one.top_logps[-1, 0] and (np.diff(one.top_logps) <= 0).all()
        (alone,) = likelihoods(served.module, served.params, [ids], 1)
        np.testing.assert_allclose(alone.logps, one.logps, atol=1e-4)
        assert alone.top[:, 0].tolist() == one.top[:, 0].tolist()


def test_rows_of_text_are_those_of_eval(served):
    ids = [5, 9, 300]
    ours, theirs = served.text_row(tuple(ids)), prompt_row("request", ids, served.module.config.decoder)
    for name in ("tokens", "positions", "image_slots", "branches"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()


def test_a_stop_string_that_no_token_writes_is_the_client_s_fault(served, monkeypatch):
    served.check_stops(("\n\n", "<|im_end|>", "red"))
    monkeypatch.setattr(type(served.tokenizer), "decode", lambda self, ids, **_: "?")
    with pytest.raises(Failure, match="stop: the stop string 'red' can never be sampled") as found:
        served.check_stops(("red",))
    assert (found.value.status, found.value.param) == (400, "stop")


def test_the_weights_are_in_memory_once(served):
    """In their compute type, layers apart: the sampler uses these arrays."""
    scheduler = Scheduler(served, 2)
    weights = scheduler._sampler.weights
    own = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(served.params)}
    assert all(leaf.unsafe_buffer_pointer() in own for leaf in jax.tree.leaves((weights.layers, weights.head)))


def test_a_job_that_is_refused_or_dropped_leaves_the_others(served):
    """What the sampler refuses is a failure of this job alone; dropping twice, or a finished job, is no error."""
    from pivot_jax.serve.scheduler import Job

    scheduler, found = Scheduler(served, 2), {"bad": [], "good": [], "gone": []}
    row = served.text_row((5, 9))
    jobs = {
        "bad": Job(Prompt(None, row, 0), 1, Sampling(4, top_p=0.0), False, found["bad"].append),
        "good": Job(Prompt(None, row, 0), 2, Sampling(40, temperature=0.0), False, found["good"].append),
        "gone": Job(Prompt(None, row, 1), 2, Sampling(40), False, found["gone"].append),
    }
    for job in jobs.values():
        scheduler.submit(job)
    scheduler.drop(jobs["gone"])
    scheduler.start()
    try:
        future = scheduler.score([5, 9], 1)
        cancelled = scheduler.score([5, 9], 1)
        cancelled.cancel()
        assert len(future.result(300).logps) == 2
        while sum(update.finish is not None for update in found["good"]) < 2:
            assert scheduler._thread.is_alive()
        for job in jobs.values():
            scheduler.drop(job)
    finally:
        scheduler.stop()
    (failure,) = found["bad"]
    assert failure.status == 400 and "top_p is 0" in failure.message
    texts = {i: [token for u in found["good"] if u.response == i for token in u.tokens] for i in (0, 1)}
    assert texts[0] == texts[1] and len(texts[0]) == 40 and not found["gone"]
    late = []
    scheduler.submit(Job(Prompt(None, row, 0), 1, Sampling(4), False, late.append))
    assert late[0].status == 503
    with pytest.raises(Failure, match="being stopped"):
        scheduler.score([1], 1).result(1)
