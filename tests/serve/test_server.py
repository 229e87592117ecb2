"""A live server and the official client: answers, log-probs, streams, likelihoods, many clients at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jax
import numpy as np

from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.rollout.engine import Sampling
from tests.serve.conftest import NAME, QUESTION, answered, ask, client_of, data_url, example, requests, sampled, turn
from tests.tiny import rollouts


def test_models_and_health(server, client):
    assert [model.id for model in client.models.list().data] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "pivot-jax"
    found = httpx.get(server.url.removesuffix("/v1") + "/health")
    assert found.status_code == 200 and found.json() == {"status": "ok", "model": NAME, "requests": 0}


def test_greedy_answers_are_those_of_eval(model, client, folder):
    """The Answerer of `pivot-jax eval`, with images of other colours and questions of other lengths."""
    texts = [QUESTION, "Colour? " * 12, QUESTION + " Answer."]
    examples = [example(folder, i, texts[i % 3]) for i in range(6)]
    expected = model.answerer(4).answer(examples, 24)
    found = [answered(client, folder, i, texts[i % 3], max_tokens=24) for i in range(6)]
    assert [one.choices[0].message.content for one in found] == [reply.text for reply in expected]
    assert [one.choices[0].finish_reason == "stop" for one in found] == [reply.finished for reply in expected]
    assert len({reply.text for reply in expected}) >= 5
    reply = found[0]
    assert (reply.object, reply.model, reply.choices[0].message.role) == ("chat.completion", NAME, "assistant")
    assert reply.id.startswith("chatcmpl-") and abs(reply.created - time.time()) < 600
    row = model.processor.encode(examples[0])
    assert reply.usage.prompt_tokens == len(row.tokens) and reply.usage.total_tokens == len(row.tokens) + 24


def test_four_sampled_answers_and_their_log_probs(model, sampler, client, folder):
    """The same tokens as the sampler draws with this seed; log-probs are the trainer's, at temperature 1."""
    ends = (model.processor.chat.end_id,)
    sampling = Sampling(12, temperature=0.8, top_p=0.9, stop_ids=ends)
    prompt, responses = sampled(sampler, model, folder, 1, 4, sampling, seed=7)
    expected = rollouts.trained_logps(model.mllm, model.params, model.processor, [prompt], [responses], Sampling(1))[0]
    found = answered(
        client, folder, 1, n=4, seed=7, temperature=0.8, top_p=0.9, max_tokens=12, logprobs=True, top_logprobs=4
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for choice, response, logps in zip(found.choices, responses, expected, strict=True):
        assert choice.message.content == model.processor.chat.decode(response.tokens)
        content = choice.logprobs.content
        text = [i for i in response.tokens.tolist() if i not in ends]
        assert len(content) == len(text)
        np.testing.assert_allclose([one.logprob for one in content], logps[: len(text)], atol=1e-4)
        for one in content:
            top = [other.logprob for other in one.top_logprobs]
            assert len(top) == 4 and top == sorted(top, reverse=True) and one.logprob <= top[0]
    assert len({choice.message.content for choice in found.choices}) == 4
    assert found.usage.completion_tokens == sum(len(response.tokens) for response in responses)
    again, other = (
        answered(client, folder, 1, n=4, seed=seed, temperature=0.8, top_p=0.9, max_tokens=12) for seed in (7, 8)
    )
    contents = lambda reply: [choice.message.content for choice in reply.choices]  # noqa: E731
    assert contents(again) == contents(found) != contents(other) and again.choices[0].logprobs is None


def test_greedy_log_probs_are_the_trainer_s(model, sampler, client, folder):
    sampling = Sampling(20, temperature=0.0, stop_ids=(model.processor.chat.end_id,))
    prompt, responses = sampled(sampler, model, folder, 2, 1, sampling)
    (expected,) = rollouts.trained_logps(model.mllm, model.params, model.processor, [prompt], [responses], Sampling(1))[
        0
    ]
    content = answered(client, folder, 2, max_tokens=20, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    np.testing.assert_allclose([one.logprob for one in content], expected[: len(content)], atol=1e-4)
    assert all(one.token == one.top_logprobs[0].token and one.logprob == one.top_logprobs[0].logprob for one in content)


def streamed(client, messages, **options):
    """Text and log-probs of each choice, finish reasons, and the usage."""
    texts, logprobs, reasons, usage = {}, {}, {}, None
    for chunk in ask(client, messages, stream=True, **options):
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in reasons
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            logprobs.setdefault(choice.index, []).extend(choice.logprobs.content if choice.logprobs else [])
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, logprobs, reasons, usage


def test_a_stream_is_the_whole_answer_in_pieces(client, folder):
    options = {"temperature": 0, "max_tokens": 70, "logprobs": True, "top_logprobs": 2}
    messages = turn(data_url(folder / "3.png"))
    whole = ask(client, messages, **options)
    texts, logprobs, reasons, usage = streamed(client, messages, stream_options={"include_usage": True}, **options)
    assert texts == {0: whole.choices[0].message.content} and reasons == {0: whole.choices[0].finish_reason}
    assert logprobs[0] == whole.choices[0].logprobs.content and usage == whole.usage
    options = {"temperature": 1.0, "seed": 3, "n": 3, "max_tokens": 40}
    whole = ask(client, messages, **options)
    texts, _, reasons, usage = streamed(client, messages, **options)
    assert texts == {choice.index: choice.message.content for choice in whole.choices} and usage is None
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}


def test_stop_strings_end_an_answer_before_them(client, folder):
    messages = turn(data_url(folder / "1.png"))
    whole = ask(client, messages, temperature=0, max_tokens=60).choices[0].message.content
    middle = next(i for i in range(20, len(whole) - 3) if whole[i : i + 3].isascii() and whole[i : i + 3].strip())
    stop = whole[middle : middle + 3]
    first = whole.index(stop)
    options = {"temperature": 0, "max_tokens": 60, "stop": ["never there", stop]}
    found = ask(client, messages, **options).choices[0]
    assert (found.message.content, found.finish_reason) == (whole[:first].strip(), "stop")
    texts, _, reasons, _ = streamed(client, messages, **options)
    assert texts == {0: found.message.content} and reasons == {0: "stop"}


def test_32_clients_at_once_get_what_each_would_get_alone(server, folder):
    """Half of them greedy, of which some stream; the others sampled, with other limits, n and stop strings."""
    urls = [data_url(folder / f"{i}.png") for i in range(12)]

    def one(i: int) -> list[str]:
        messages = turn(urls[i % 12], text=QUESTION + " Please." * (i % 5))
        if i % 2:
            options = {"temperature": 0.5 + 0.1 * (i % 4), "seed": i, "n": 1 + i % 3, "top_p": 1.0 if i % 4 else 0.8}
        else:
            options = {"temperature": 0}
        options |= {"max_tokens": 8 + i, "logprobs": i % 6 == 0, "stop": ["e?"] if i % 8 == 1 else None}
        own = client_of(server)
        if i % 4 == 0:
            return list(streamed(own, messages, **options)[0].values())
        return [choice.message.content for choice in ask(own, messages, **options).choices]

    alone = [one(i) for i in range(32)]
    begin = threading.Barrier(32)

    def together(i: int) -> list[str]:
        begin.wait()
        return one(i)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(together, range(32))) == alone
    assert len({texts[0] for texts in alone}) > 20
    assert requests(server) == 0


def test_completions_of_text_and_ids(model, client):
    tokenizer = model.processor.chat.tokenizer
    prompts = ["Which colour", "It is red. It"]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    options = {"model": NAME, "max_tokens": 9, "temperature": 0}
    whole = client.completions.create(prompt=prompts, n=2, **options)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3] and whole.object == "text_completion"
    assert [choice.text for choice in whole.choices[::2]] == [choice.text for choice in whole.choices[1::2]]
    by_ids = client.completions.create(prompt=ids, echo=True, **options)
    assert [one.text for one in by_ids.choices] == [
        prompt + choice.text for prompt, choice in zip(prompts, whole.choices[::2], strict=True)
    ]
    assert by_ids.usage.prompt_tokens == sum(map(len, ids)) and by_ids.usage.completion_tokens == 18
    texts = ["", ""]
    for chunk in client.completions.create(prompt=prompts, stream=True, **options):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [whole.choices[0].text, whole.choices[2].text]
    found = client.completions.create(prompt="It", logprobs=2, **options).choices[0]
    assert len(found.logprobs.tokens) == 9 and found.logprobs.text_offset[0] == 0
    assert all(
        max(top.values()) == logp
        for top, logp in zip(found.logprobs.top_logprobs, found.logprobs.token_logprobs, strict=True)
    )


def test_likelihoods_as_lm_eval_asks_for_them(model, client):
    """Log-probs of a context with its continuation: the trainer's, and greedy exactly where the token is the first."""
    tokenizer = model.processor.chat.tokenizer
    ids = tokenizer("Which colour is it? It is red. How many are there?")["input_ids"]
    other = tokenizer("It is")["input_ids"]
    for limit in (1, 0, 4):
        found = client.completions.create(
            model=NAME, prompt=[ids, other], echo=True, logprobs=1, max_tokens=limit, temperature=0, seed=1234
        )
        for choice, prompt in zip(found.choices, (ids, other), strict=True):
            values = choice.logprobs
            assert values.token_logprobs[0] is None and values.top_logprobs[0] is None
            assert len(values.tokens) == len(values.token_logprobs) == len(values.text_offset) == len(prompt) + limit
            logits = text_logits(model, prompt)
            expected = np.asarray(jax.nn.log_softmax(logits))
            own = expected[np.arange(len(prompt) - 1), prompt[1:]]
            np.testing.assert_allclose(values.token_logprobs[1 : len(prompt)], own, atol=1e-4)
            greedy = expected[:-1].argmax(axis=-1) == prompt[1:]
            tops = [max(top.values()) for top in values.top_logprobs[1 : len(prompt)]]
            assert (np.asarray(tops) == values.token_logprobs[1 : len(prompt)]).tolist() == greedy.tolist()
            np.testing.assert_allclose(tops, expected[:-1].max(axis=-1), atol=1e-4)
            if limit:
                assert values.token_logprobs[len(prompt)] == max(values.top_logprobs[len(prompt)].values())
                np.testing.assert_allclose(values.token_logprobs[len(prompt)], expected[-1].max(), atol=1e-4)
            assert choice.text.startswith(tokenizer.decode(prompt)) and choice.finish_reason == "length"


def text_logits(model, ids):
    """[n, v], from one forward pass over text."""
    from pivot_jax.models.language_model import head_matrix, text_batch

    batch = text_batch([ids], model.mllm.config.decoder)
    hidden = model.mllm.apply({"params": model.params}, batch, method="hidden")
    return np.asarray(hidden[0] @ head_matrix(model.params).T)


def test_images_are_prepared_as_the_processor_does(served, model, folder):
    """What the sampler gets of a request is what training reads."""
    from pivot_jax.serve.asked import Limits, chat

    asked = chat({"model": NAME, "messages": turn(data_url(folder / "5.png"))}, NAME, Limits(9, 1 << 20, 1))
    row = served.row(asked, 1 << 20)
    expected = model.processor.encode(example(folder, 5))
    assert row.tokens.tolist() == expected.tokens.tolist()
    arrays = row.images[0].read(row.images)
    assert isinstance(arrays, ImageArrays)
    np.testing.assert_array_equal(arrays.pixels, model.processor.read_images(expected.images).pixels)
