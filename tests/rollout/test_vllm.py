"""The engine over vLLM servers, against a real vLLM with a tiny random Qwen2.5-VL: `make test-vllm`."""

from __future__ import annotations

import dataclasses
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import urllib3

from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.branches import group_row
from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import RowError, UserError
from pivot_jax.models.language_model import head_matrix
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.rollout.vllm import VLLM, Limits, Server, Servers, compatibility, request, weights
from tests.tiny import qwen, vllm_servers

pytestmark = pytest.mark.vllm
PATCH, PATCHES, VOCABULARY = 14, 128, 151_680
SIZES = ((30, 61), (56, 84), (120, 40), (47, 200))  # pixels: images are resized
LENGTH, ANSWER = 120, 12
GROUP = (LENGTH + 4 * ANSWER, 4 * ANSWER)


@pytest.fixture(scope="module")
def world(tmp_path_factory, shared_data):
    """Model, two sets of parameters, processor, and an exporter of a tiny Qwen2.5-VL with the real tokenizer."""
    vllm_servers.require()
    root = tmp_path_factory.mktemp("vllm")
    tokens = load_tokenizer(shared_data / "qwen2_5_vl_processor")
    tower = dict(hidden_size=32, intermediate_size=48, depth=2, patch_size=PATCH, window_size=112)
    text = dict(hidden_size=64, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1)
    text |= dict(vocab_size=VOCABULARY, tie_word_embeddings=False)
    text |= dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]})
    sets = []
    for seed in (0, 1):
        qwen.model("qwen2_5_vl", tokens, seed, tower, text).save_pretrained(root / f"theirs{seed}")
        sets.append(hub.load_params(root / f"theirs{seed}"))
    config = hub.read_config(root / "theirs0").mllm
    limits = dict(max_patches=PATCHES, min_pixels=4 * PATCH**2, max_pixels=10**6)
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, **limits))

    def export(params, folder, config=config):
        hub.export_qwen_vl(params, config, folder, hub.ExportOptions(overwrite=True), hub.ExportText(tokens))

    processor = qwen.processor("qwen2_5_vl", tokens, PATCH, 112 // PATCH)
    export(sets[0], root / "served")
    return World(root, MLLM(config), sets, processor, export)


@dataclasses.dataclass
class World:
    root: Path
    model: MLLM
    sets: list[Any]  # parameters
    processor: Any
    export: Any

    def start(self, name: str, *options: str, script: bool = True):
        return vllm_servers.Running(self.root / "served", self.root / f"{name}.log", *options, script=script)

    def engine(self, *servers, patience: float = 20.0, processor=None):
        urls = tuple(server.url for server in servers)
        settings = Servers(urls, self.root / "handed over", Limits(patience_s=patience, request_s=120.0))
        return VLLM(settings, processor or self.processor, self.export)

    def prompts(self, count: int = 4, first: int = 0):
        """Prompts with 1, 2, ... images, and without one, cyclically."""
        return [self.prompt(first + i, images=(1, 2, 0)[(first + i) % 3]) for i in range(count)]

    def prompt(self, number: int, images: int = 1, max_tokens: int = 0):
        rng = np.random.default_rng(number)
        shown = tuple(
            rng.integers(0, 256, (*SIZES[(number + i) % len(SIZES)], 3), dtype=np.uint8) for i in range(images)
        )
        example = Example(f"row{number}", (Message("user", "<image>\n" * images + f"What is {number}?"),), shown)
        return Prompt(example, self.processor.encode(example), number, max_tokens)

    def teacher_forced(self, params, prompt, responses, temperature=1.0, banned=()):
        """Log-probs of every response's tokens by the trainer's forward pass over one row of prompt and responses."""
        row = group_row(prompt.row, [response.tokens for response in responses])
        images = self.processor.geometry.empty(1, self.processor.arrays_per_row)
        for whole, own in images.pairs(self.processor.read_images(prompt.row.images)):
            whole[0, : len(own)] = own
        batch = self.processor.for_kind("sft").batch([row], images, GROUP)
        found = np.asarray(_logps(self.model, params, batch, temperature, banned))[0, : len(row.targets)]
        return np.split(found, np.cumsum([len(response.tokens) for response in responses])[:-1])

    def greedy(self, params, prompts):
        """Tokens of the embedded engine's greedy answers."""
        own = Sampler(self.model, self.processor, Shape(slots=4))
        try:
            own.update(params, 0)
            found = own.generate(prompts, 1, Sampling(ANSWER, temperature=0, stop_ids=(151645,)), (0, 0))
        finally:
            own.close()
        return [group[0].tokens.tolist() for group in found.responses]


def _logps(model, params, batch, temperature, banned):
    """``models.logprobs.score`` at temperature 1 without banned ids, else the same from full logits."""
    if temperature == 1 and not banned:
        return _score(model, params, batch)
    return _from_logits(model, params, batch, temperature, banned)


@partial(jax.jit, static_argnums=0)
def _score(model, params, batch):
    return score(model, params, batch).logps


@partial(jax.jit, static_argnums=(0, 3, 4))
def _from_logits(model, params, batch, temperature, banned):
    hidden = model.apply({"params": params}, batch, None, method="hidden")
    picked = jnp.take_along_axis(hidden, batch.sources[:, :, None], axis=1)
    logits = jnp.einsum("btd,vd->btv", picked, head_matrix(params), precision=jax.lax.Precision.HIGHEST) / temperature
    logits = logits.at[:, :, jnp.asarray(banned, int)].set(-jnp.inf)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[:, :, None], axis=-1)[..., 0]


@pytest.fixture(scope="module")
def servers(world):
    """Two servers, which start side by side."""
    found = [world.start("first"), world.start("second")]
    try:
        yield [server.wait() for server in found]
    finally:
        for server in found:
            server.kill()


@pytest.fixture(scope="module")
def engine(world, servers):
    made = world.engine(*servers)
    yield made
    made.close()


SAMPLING = Sampling(ANSWER, stop_ids=(151645,), banned_ids=(151652, 151655, 151656))


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_probs_are_the_trainers(world, engine, temperature):
    """Of every sampled token, over one row of image, prompt and responses; with the same tokens banned."""
    engine.update(world.sets[0], 0)
    prompts = world.prompts(6)
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    found = engine.generate(prompts, 4, sampling, (0, 0))
    assert found.version == 0 and [len(group) for group in found.responses] == [4] * 6
    gaps = []
    for prompt, group in zip(prompts, found.responses, strict=True):
        ours = world.teacher_forced(world.sets[0], prompt, group, temperature, sampling.banned_ids)
        for response, logps in zip(group, ours, strict=True):
            np.testing.assert_array_equal(response.logps, response.sampling_logps)
            assert not np.isin(response.tokens, sampling.banned_ids).any()
            assert len(response.tokens) == ANSWER or response.finish == "stop"
            gaps.append(np.abs(response.logps - logps))
    gaps = np.concatenate(gaps)
    print(
        f"temperature {temperature}: |difference| of {len(gaps)} log-probs: max {gaps.max():.1e} mean {gaps.mean():.1e}"
    )
    assert gaps.max() < 2e-4


def test_score_gives_the_same_log_probs(world, engine):
    """The trainer's own function, at temperature 1 and without banned tokens."""
    engine.update(world.sets[0], 0)
    prompts = world.prompts(3)
    found = engine.generate(prompts, 2, Sampling(ANSWER), (1, 0))
    for prompt, group in zip(prompts, found.responses, strict=True):
        for response, logps in zip(group, world.teacher_forced(world.sets[0], prompt, group), strict=True):
            np.testing.assert_allclose(response.logps, logps, atol=2e-4)


def test_after_an_update_the_new_weights_answer(world, engine, servers):
    """Images that the servers have seen before, too: their features are those of the new weights."""
    prompts = world.prompts(6)
    sampling = Sampling(ANSWER, temperature=0, stop_ids=(151645,))
    wanted = [world.greedy(params, prompts) for params in world.sets]
    assert all(a != b for a, b in zip(*wanted, strict=True))
    checksums = []
    for version, which in enumerate((0, 1, 0)):
        engine.update(world.sets[which], version)
        found = engine.generate(prompts, 2, sampling, (0, version))
        assert found.version == version
        for group, tokens in zip(found.responses, wanted[which], strict=True):
            assert [response.tokens.tolist() for response in group] == [tokens, tokens]
        labels = {weights.version(server) for server in engine.servers}
        assert len(labels) == 1 and labels.pop().startswith(f"{version}-")
        answers = [x.post("/weight_checker", {"action": "checksum"})["checksums"] for x in engine.servers]
        assert answers[0] == answers[1]
        checksums.append(answers[0])
    assert checksums[0] == checksums[2] != checksums[1]


def test_vision_weights_alone(world, engine):
    """Only the encoder changes: a server with old image features would give the old answer."""
    prompts = [world.prompt(number) for number in range(4)]
    sampling = Sampling(ANSWER, temperature=0)
    engine.update(world.sets[0], 0)
    before = engine.generate(prompts, 1, sampling, (0, 0)).responses
    changed = {**world.sets[0], "vision": world.sets[1]["vision"], "projector": world.sets[1]["projector"]}
    engine.update(changed, 1)
    after = engine.generate(prompts, 1, sampling, (0, 0)).responses
    assert [group[0].tokens.tolist() for group in after] == world.greedy(changed, prompts)
    assert any(a[0].tokens.tolist() != b[0].tokens.tolist() for a, b in zip(before, after, strict=True))


def test_checksums_of_other_weights(world, engine, tmp_path):
    """A server that holds other weights than the folder is found out."""
    engine.update(world.sets[0], 0)
    world.export(world.sets[1], tmp_path / "other")
    other = weights.read(tmp_path / "other", 0)
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*4 of 4 tensors.*other checksums"):
        weights.check(engine.servers[0], other, "torch.float32")
    weights.check(engine.servers[0], weights.read(world.root / "handed over", 0), "torch.float32")


def test_seeds(world, engine):
    """A response depends on (seed, rollout), prompt and number alone, not on the batch, its order or its server."""
    engine.update(world.sets[0], 0)
    prompts = world.prompts(7)
    tokens = lambda rollouts: [[x.tokens.tolist() for x in group] for group in rollouts.responses]  # noqa: E731
    found = tokens(engine.generate(prompts, 4, SAMPLING, (3, 5)))
    assert found == tokens(engine.generate(prompts, 4, SAMPLING, (3, 5)))
    assert found[::-1] == tokens(engine.generate(prompts[::-1], 4, SAMPLING, (3, 5)))
    assert [group[:2] for group in found[2:4]] == tokens(engine.generate(prompts[2:4], 2, SAMPLING, (3, 5)))
    more = tokens(engine.generate(prompts[:1], 20, SAMPLING, (3, 5)))  # more than the server computes at once
    many = tokens(engine.generate(world.prompts(40), 8, SAMPLING, (3, 5)))  # more tokens than it reads in a step
    assert [group[:4] for group in many[:7]] == found
    assert more[0][:4] == found[0] and len({tuple(x) for x in more[0]}) == 20
    for seed in ((3, 6), (4, 5)):
        assert all(a != b for a, b in zip(found, tokens(engine.generate(prompts, 4, SAMPLING, seed)), strict=True))


def test_limits_and_ends(world, engine):
    """Limits of prompts, stop tokens (kept), stop strings, and truncation by top-k."""
    engine.update(world.sets[0], 0)
    prompt = world.prompt(0)
    short = dataclasses.replace(prompt, max_tokens=5, number=1)
    (greedy,), (limited,) = engine.generate([prompt, short], 1, Sampling(ANSWER, temperature=0), (0, 0)).responses
    assert limited.finish == greedy.finish == "length" and not greedy.sampling_logps.any()
    np.testing.assert_allclose(greedy.logps, world.teacher_forced(world.sets[0], prompt, [greedy])[0], atol=2e-4)
    assert limited.tokens.tolist() == greedy.tokens[:5].tolist() and len(greedy.tokens) == ANSWER
    end = int(greedy.tokens[3])
    first = greedy.tokens.tolist().index(end)
    ((ended,),) = engine.generate([prompt], 1, Sampling(ANSWER, temperature=0, stop_ids=(end,)), (0, 0)).responses
    assert ended.finish == "stop" and ended.tokens.tolist() == greedy.tokens[: first + 1].tolist()
    text = world.processor.chat.tokenizer.decode(greedy.tokens[:3])[-2:]
    ((ended,),) = engine.generate([prompt], 1, Sampling(ANSWER, temperature=0, stop=(text,)), (0, 0)).responses
    assert ended.finish == "stop" and len(ended.tokens) <= 3
    ((drawn,),) = engine.generate([prompt], 1, Sampling(ANSWER, top_k=2), (0, 0)).responses
    assert np.isnan(drawn.logps).all() and (drawn.sampling_logps <= 0).all() and len(drawn.tokens) == ANSWER
    chosen = world.teacher_forced(world.sets[0], prompt, [drawn])[0]
    assert (drawn.sampling_logps > chosen).all()


def test_two_servers_share_the_prompts(world, engine):
    """And the seeds keep a response the same on either."""
    engine.update(world.sets[0], 0)
    before = [_requests(server) for server in engine.servers]
    counted = []
    engine.generate(world.prompts(12), 2, SAMPLING, (0, 0), counted.append)
    assert counted == [2] * 12
    after = [_requests(server) for server in engine.servers]
    served = [b - a for a, b in zip(before, after, strict=True)]
    assert sum(served) == 24 and min(served) >= 6, served


def _requests(server: Server) -> int:
    """Responses that the server has finished, from its metrics."""
    return _count(server, "vllm:request_success_total{")


def _count(server: Server, *names: str) -> int:
    """Sum of a server's metrics of these names."""
    text = urllib3.request("GET", f"{server.url}/metrics").data.decode()
    return int(sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(names)))


def test_what_vllm_does_not_take(world, engine):
    engine.update(world.sets[0], 0)
    with pytest.raises(UserError, match=r"temperature 2\.5: vLLM takes 0"):
        engine.generate(world.prompts(1), 1, Sampling(4, temperature=2.5), (0, 0))
    with pytest.raises(UserError, match=r"a stop string is empty"):
        engine.generate(world.prompts(1), 1, Sampling(4, stop=("",)), (0, 0))
    with pytest.raises(UserError, match=r"rows 'row0' and 'row0' have the same number"):
        engine.generate(world.prompts(1) * 2, 1, Sampling(4), (0, 0))
    with pytest.raises(RowError, match=r"row 'row0': .*takes 256; start it with --max-model-len 3\d\d"):
        engine.generate(world.prompts(1), 1, Sampling(300), (0, 0))
    broken = dataclasses.replace(world.prompt(0).row, images=("/nowhere.png",))
    with pytest.raises(RowError, match=r"row 'row0': image file /nowhere.png does not exist"):
        engine.generate([dataclasses.replace(world.prompt(0), row=broken)], 1, SAMPLING, (0, 0))
    row = world.prompt(0).row
    at = int(np.argmax(row.image_slots >= 0)) + 1
    more, slots = (np.insert(values, at, values[at]) for values in (row.tokens, row.image_slots))
    broken = dataclasses.replace(row, tokens=more, image_slots=slots)  # one image token more than the server has
    with pytest.raises(RowError, match=r"row 'row0': vLLM server http\S+ expands the prompt to \d+ tokens"):
        engine.generate([dataclasses.replace(world.prompt(0), row=broken)], 1, SAMPLING, (0, 0))


def test_a_server_of_another_trainer(world, servers, tmp_path):
    """Another tokenizer, chat template, image limits, vocabulary or class: one line with the fix."""
    chat = world.processor.chat
    usual = dict(geometry=world.processor.geometry, image_around=qwen.AROUND, max_images=3, max_length=512, mrope=True)
    other = lambda **settings: qwen.processing.processor(chat.tokenizer, **usual | settings)  # noqa: E731
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+ has another chat template: .*--model FOLDER"):
        world.engine(servers[0], processor=other(system="Be brief."))
    with pytest.raises(UserError, match=r"other image sizes: an image of 97x61 pixels takes 4 tokens, here 9"):
        world.engine(servers[0], processor=other(geometry=Square("siglip", 56, 9)))
    with pytest.raises(UserError, match=r"another vocabulary: tokens 0 to \d+"):
        world.engine(servers[0], processor=qwen.processor("qwen2_5_vl", qwen.tokenizer(tmp_path), PATCH))
    world.export(world.sets[0], tmp_path / "folder")
    own = weights.read(tmp_path / "folder", 0)
    compatibility.check_model(Server(servers[0].url), "cpu", own)
    for change in (dict(architecture="LlavaForConditionalGeneration"), dict(vocabulary=152_064), dict(width=128)):
        with pytest.raises(UserError, match=r"has a Qwen2_5_VLForConditionalGeneration of vocabulary 151680 and width"):
            compatibility.check_model(Server(servers[0].url), "cpu", dataclasses.replace(own, **change))
    with pytest.raises(UserError, match=r"has a head of its own, the trainer a head that is tied to the embedding"):
        compatibility.check_model(Server(servers[0].url), "cpu", dataclasses.replace(own, tied=True))


def test_addresses(world, servers):
    with pytest.raises(UserError, match=r"'localhost:8000': the URL starts with http"):
        Server("localhost:8000")
    with pytest.raises(UserError, match="name each one's URL once"):
        world.engine(servers[0], servers[0])
    start = time.monotonic()
    with pytest.raises(UserError, match=r"server http://127\.0\.0\.1:9 does not answer .* tries in \d s\); start"):
        VLLM(Servers(("http://127.0.0.1:9",), world.root, Limits(patience_s=2)), world.processor, world.export)
    assert time.monotonic() - start < 10
    engine = world.engine(servers[0])
    with pytest.raises(UserError, match=r"call update\(params, version\) before generate"):
        engine.generate(world.prompts(1), 1, SAMPLING, (0, 0))


def test_a_request_that_takes_too_long(world, servers):
    """The limit ends it, and the server is told to stop computing."""
    settings = Servers((servers[0].url,), world.root / "handed over", Limits(patience_s=20, request_s=60))
    engine = VLLM(settings, world.processor, world.export)
    engine.update(world.sets[0], 0)
    engine.servers[0].limits = Limits(patience_s=20, request_s=0.05)
    with pytest.raises(UserError, match=r"did not answer POST /inference/v1/generate within 0\.05 s"):
        engine.servers[0].post(request.ENDPOINT, _long(world))


def _long(world):
    prompt = world.prompt(0)
    settings = request.parameters(Sampling(120), 120, 8, 0)
    return {**request.body(prompt, world.processor), "sampling_params": settings}


def test_a_server_that_dies(world, servers):
    """In mid-rollout: an error that names it, its requests elsewhere end; back with its old weights, it gets the new.

    Started again without its flags, it is rejected.
    """
    engine = world.engine(*servers, patience=4.0)
    engine.update(world.sets[1], 7)
    prompts = world.prompts(90)
    sampling = dataclasses.replace(SAMPLING, max_tokens=100)
    wanted = engine.generate(prompts[:8], 4, sampling, (0, 0))
    second = servers[1]
    timer = threading.Timer(1.0, second.kill)
    timer.start()
    start = time.monotonic()
    with pytest.raises(UserError, match=rf"vLLM server {second.url} does not answer .*start it again .*resumes"):
        engine.generate(prompts, 8, sampling, (0, 0))
    print(f"error after {time.monotonic() - start:.1f} s")
    assert time.monotonic() - start < 40
    assert _running(engine.servers[0]) == 0
    with pytest.raises(UserError, match=second.url):
        engine.update(world.sets[1], 8)
    second.start(script=False)
    second.wait()
    with pytest.raises(UserError, match=rf"{second.url} does not run in development mode; .*VLLM_SERVER_DEV_MODE=1"):
        engine.generate(prompts[:8], 4, sampling, (0, 0))
    second.kill()
    second.start()
    second.wait()
    found = engine.generate(prompts[:8], 4, sampling, (0, 0))
    assert found.version == 8
    for a, b in zip(found.responses, wanted.responses, strict=True):
        assert [x.tokens.tolist() for x in a] == [x.tokens.tolist() for x in b]


def _running(server: Server) -> int:
    """Requests that the server computes, after a moment."""
    for _ in range(20):
        if not (count := _count(server, "vllm:num_requests_running{", "vllm:num_requests_waiting{")):
            break
        time.sleep(0.25)
    return count


def test_missing_flags_and_a_tied_head(world, tmp_path):
    """Development mode alone: raw log-probs, and no endpoint that takes tokens.

    And a tied head, whose copy in the CPU build would stay as it is.
    """
    tied = dataclasses.replace(world.model.config.decoder, tied=True)
    own = {k: v for k, v in world.sets[0]["decoder"].items() if k != "head"}
    world.export(
        {**world.sets[0], "decoder": own}, tmp_path / "tied", dataclasses.replace(world.model.config, decoder=tied)
    )
    flags = ("--logprobs-mode", "raw_logprobs", "--no-enable-scale-out", "--enable-chunked-prefill")
    server = vllm_servers.Running(tmp_path / "tied", world.root / "flags.log", *flags)
    try:
        server.wait()
        with pytest.raises(UserError, match=r"returns raw_logprobs, .*; start it with --logprobs-mode processed_logpr"):
            world.engine(server)
        with pytest.raises(UserError, match=r"has no /inference/v1/generate; start it with --enable-scale-out"):
            compatibility.check_endpoint(Server(server.url))
        info = Server(server.url).get("/server_info?config_format=json")["vllm_config"]
        with pytest.raises(UserError, match=r"read in several chunks .*; start it with --no-enable-chunked-prefill"):
            compatibility.check_prefill(Server(server.url), info)
        folder = weights.read(tmp_path / "tied", 0)
        with pytest.raises(UserError, match=r"runs on a CPU and computes with a copy of the head"):
            compatibility.check_model(Server(server.url), "cpu", folder)
    finally:
        server.kill()
