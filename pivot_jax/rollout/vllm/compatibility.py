"""What a vLLM server must be before it samples for a trainer: flags, tokenizer, chat template, vocabulary, model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError
from pivot_jax.rollout.vllm.request import ENDPOINT, data_urls
from pivot_jax.rollout.vllm.server import Absent, Rejected, Server
from pivot_jax.rollout.vllm.weights import Weights

DEV_MODE = "VLLM_SERVER_DEV_MODE=1 in its environment"
LOGPROBS = "--logprobs-mode processed_logprobs"
SCALE_OUT = "--enable-scale-out"
WHOLE_PROMPTS = "--no-enable-chunked-prefill"
CHUNK = 8192  # ids whose text is compared at once
TEXTS = (
    "How many red circles are there? 12,345.67 of them\n\n", "<think>\n∫x²dx ≤ 5\\boxed{x}</think><answer>(A)</answer>",
    "  Größe: 三角形の角度は 60° です。 Сколько?\t'tis I'll we've 1st", "def f(x):\n    return {'a': [x, x**2]}  # ok",
)  # fmt: skip
QUESTION = "How many?"


@dataclass(frozen=True)
class Traits:
    """What a server says of itself.

    Attributes:
      name: of its model. dtype: such as "torch.float32". device: such as "cuda" or "cpu".
      max_length: tokens of prompt and response. rows: responses that it computes at once.
    """

    name: str
    dtype: str
    device: str
    max_length: int
    rows: int


def traits(server: Server) -> Traits:
    """Of a server with the flags that a trainer needs.

    Raises:
      UserError: a flag is missing; the message names it.
    """
    where = f"vLLM server {server.url}"
    try:
        config = server.get("/server_info?config_format=json")["vllm_config"]
        server.get("/weight_info")
    except Absent:
        raise UserError(f"{where} does not run in development mode; start it with {DEV_MODE}") from None
    mode = config["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise UserError(f"{where} returns {mode}, before temperature and truncation; start it with {LOGPROBS}")
    check_endpoint(server)
    check_prefill(server, config)
    name = server.get("/v1/models")["data"][0]["id"]
    model = config["model_config"]
    return Traits(
        name=name,
        dtype=str(model["dtype"]),
        device=str(config["device_config"]["device"]),
        max_length=model["max_model_len"],
        rows=config["scheduler_config"]["max_num_seqs"],
    )


def check_endpoint(server: Server) -> None:
    """Raises UserError where the server takes no tokens; asked with a request that it rejects."""
    try:
        server.post(ENDPOINT, {"token_ids": []})
    except Absent:
        raise UserError(
            f"vLLM server {server.url} has no {ENDPOINT}; start it with {SCALE_OUT} (vLLM 0.30 or later)"
        ) from None
    except Rejected:
        return


def check_prefill(server: Server, config: Mapping[str, Any]) -> None:
    """Raises UserError where a long prompt would end the server; ``config``: its ``vllm_config``.

    After a chunk of a prompt vLLM 0.32 moves the generator of a request with a seed back, which a CPU's cannot.
    """
    if config["device_config"]["device"] == "cpu" and config["scheduler_config"]["enable_chunked_prefill"]:
        raise UserError(
            f"vLLM server {server.url} runs on a CPU, where a prompt that is read in several chunks ends the engine if "
            f"its request has a seed; start it with {WHOLE_PROMPTS}"
        )


def check_tokens(server: Server, processor: Processor) -> None:
    """Raises UserError where the server's vocabulary, tokenizer, chat template or image sizes are not the trainer's."""
    where, tokenizer = f"vLLM server {server.url}", processor.chat.tokenizer
    fix = "serve the folder that export-hf writes for this run (--model FOLDER)"
    for start in range(0, len(tokenizer), CHUNK):
        ids = list(range(start, min(start + CHUNK, len(tokenizer))))
        if server.post("/detokenize", {"tokens": ids})["prompt"] != tokenizer.decode(ids, skip_special_tokens=False):
            raise UserError(f"{where} has another vocabulary: tokens {ids[0]} to {ids[-1]} have other texts; {fix}")
    for text in TEXTS:
        theirs = server.post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        if theirs != list(ours):
            raise UserError(f"{where} has another tokenizer: {text!r} is {len(theirs)} tokens, here {len(ours)}; {fix}")
    if not processor.chat.format.plain:
        _check_chat(server, processor, fix)


def _check_chat(server: Server, processor: Processor, fix: str) -> None:
    """A question with an image where the model takes any, rendered by the server and by the trainer."""
    with_image = processor.chat.limits.images > 0
    noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    images = (Image.fromarray(noise),) if with_image else ()
    text = f"{IMAGE}\n{QUESTION}" if with_image else QUESTION
    row = processor.for_kind("prompt").encode(Example("probe", (Message("user", text),), images))
    content: Any = [{"type": "image_url", "image_url": {"url": url}} for url in data_urls(row, processor)]
    content = [*content, {"type": "text", "text": QUESTION}] if content else QUESTION
    request = {"messages": [{"role": "user", "content": content}], "add_generation_prompt": True}
    theirs = np.asarray(server.post("/tokenize", request)["tokens"])
    if np.array_equal(theirs, row.tokens):
        return
    image_id = processor.chat.image_id
    if np.array_equal(theirs[theirs != image_id], row.tokens[row.tokens != image_id]):
        counts = [int((ids == image_id).sum()) for ids in (theirs, row.tokens)]
        what = f"other image sizes: an image of 97x61 pixels takes {counts[0]} tokens, here {counts[1]}"
    else:
        what = f"another chat template: a question is {len(theirs)} tokens, here {len(row.tokens)}"
    raise UserError(f"vLLM server {server.url} has {what}; {fix}")


def check_model(server: Server, device: str, weights: Weights) -> None:
    """Raises UserError where the server's model is not the one in the folder; loading it would end the server.

    Also where it is one whose head would keep its old weights without an error. vLLM does not load the head where its
    model ties it to the embedding. The CPU build computes with a copy of the head, which then never changes.
    """
    where = f"vLLM server {server.url}"
    shown = server.post("/collective_rpc", {"method": "get_model_inspection"})["results"][0]
    name = shown.partition("(")[0]
    found = re.search(r"VocabParallelEmbedding\(.*?embedding_dim=(\d+), org_vocab_size=(\d+)", shown)
    theirs = (name, *(map(int, found.groups()[::-1]) if found else (0, 0)))
    ours = (weights.architecture, weights.vocabulary, weights.width)
    if theirs != ours:
        text = [f"a {kind} of vocabulary {rows} and width {width}" for kind, rows, width in (theirs, ours)]
        raise UserError(f"{where} has {text[0]}, the trainer {text[1]}; serve {weights.folder}")
    names = server.post("/weight_checker", {"action": "checksum"})["checksums"]
    if any(key.endswith("lm_head.weight") for key in names) == weights.tied:
        kinds = "a head of its own", "a head that is tied to the embedding"
        raise UserError(
            f"{where} has {kinds[not weights.tied]}, the trainer {kinds[weights.tied]}; serve {weights.folder}"
        )
    if weights.tied and device == "cpu":
        raise UserError(
            f"{where} runs on a CPU and computes with a copy of the head, which new weights do not reach where it "
            "is tied to the embedding; use servers on a GPU or TPU, or a model with tie_word_embeddings false "
            "(model.decoder.tied=False)"
        )
