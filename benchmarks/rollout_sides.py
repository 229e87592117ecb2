"""The sides of ``rollout.py``: ours, transformers and vLLM, each in a process of its own, and our refill."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import measure
import numpy as np
from measure import SideError

# case: prompts, responses of each, prompt tokens, new tokens, with an image
CASES = {
    "one row": (1, 1, 32, 64, False),
    "32 rows": (4, 8, 32, 64, False),
    "64 rows": (8, 8, 512, 64, False),
    "image": (4, 8, 32, 64, True),
    "tiny": (2, 2, 8, 4, False),
}
PIXELS, PATCH = 224, 16
ANSWER = "answer: "  # begins the lines of a vLLM process that are for us
REQUESTS, SLOTS, MEAN, LONGEST = 1024, 64, 300, 2048


def tokens_of(case: str, vocabulary: int) -> np.ndarray:
    prompts, _, length, _, _ = CASES[case]
    return np.random.default_rng(0).integers(100, min(vocabulary, 8000), (prompts, length)).astype(np.int32)


class JaxSide:
    def describe(self) -> dict[str, str]:
        import jax

        return {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind}

    def prepare(self, folder: str, dtype: str) -> int:
        """Loads the model; the bytes of its weights that a step reads."""
        import jax

        from pivot_jax.models.decoder import DecoderConfig
        from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
        from pivot_jax.models.zoo import DECODERS

        if folder:
            from pivot_jax import hub  # a GPU machine that has no folder may lack what it imports

            decoder, params = hub.read_config(folder).decoder, hub.load_params(folder)
        else:
            small = DecoderConfig(vocab_size=512, width=64, depth=2, heads=2, kv_heads=1, mlp_dim=128)
            decoder = small if jax.default_backend() == "cpu" else DECODERS["Qwen/Qwen2.5-1.5B-Instruct"]
            params = random_params(LanguageModel(LanguageModelConfig(decoder, dtype)), dtype)
        self._decoder, self._dtype, self._params, self._samplers = decoder, dtype, params, {}
        blocks = sum(x.size for x in jax.tree.leaves(params["decoder"]["blocks"]))
        return (blocks + decoder.vocab_size * decoder.width) * np.dtype(dtype).itemsize

    def cache_bytes(self, case: str) -> int:
        """Keys and values that a step of the case reads, in its middle."""
        prompts, n, length, new, _ = CASES[case]
        decoder = self._decoder
        token = 2 * decoder.depth * decoder.kv_heads * decoder.head_width * np.dtype(self._dtype).itemsize
        return prompts * n * (length + new // 2) * token

    def _sampler(self, case: str) -> Any:
        from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
        from pivot_jax.rollout.sampler import Sampler, Shape

        prompts, n, _, new, image = CASES[case]
        model: Any = LanguageModel(LanguageModelConfig(self._decoder, self._dtype))
        params, processor = self._params, None
        if image:
            model, params, processor = with_images(self._decoder, self._params, self._dtype)
        sampler = Sampler(model, processor, Shape(slots=prompts * n, prompts=prompts, steps=min(new, 32)))
        sampler.update(params, 0)
        return sampler

    def run(self, case: str) -> float:
        from pivot_jax.data.example import Example
        from pivot_jax.data.processing.batch import EncodedRow
        from pivot_jax.rollout.engine import Prompt, Sampling

        if case not in self._samplers:
            self._samplers.clear()
            self._samplers[case] = self._sampler(case)
        sampler, (_, n, _, new, image) = self._samplers[case], CASES[case]
        patches = (PIXELS // PATCH) ** 2 if image else 0
        prompts = []
        for number, text in enumerate(tokens_of(case, self._decoder.vocab_size)):
            tokens, none = np.r_[text[:2], np.zeros(patches, np.int32), text[2:]], np.zeros(0, np.int32)
            where, slots = np.arange(len(tokens), dtype=np.int32), np.full(len(tokens), -1, np.int32)
            slots[2 : 2 + patches] = np.arange(patches)
            images = (pixels(number),) if image else ()
            row = EncodedRow(str(number), tokens, slots, where, np.zeros_like(where), none, none, none, images)
            prompts.append(Prompt(Example(str(number), ()), row, number))
        start = time.perf_counter()
        found = sampler.generate(prompts, n, Sampling(new), (0, 0))
        seconds = time.perf_counter() - start
        assert all(len(response.tokens) == new for group in found.responses for response in group)
        return seconds


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (PIXELS, PIXELS, 3)).astype(np.uint8)


def random_params(model: Any, dtype: str) -> Any:
    import jax
    import jax.numpy as jnp

    tokens = jnp.zeros((1, 2), jnp.int32)
    positions = model.config.decoder.text_positions(tokens)

    def whole(module: Any) -> Any:
        return module.decoder.hidden(module.decoder.embed_tokens(tokens), positions, tokens)

    variables = jax.eval_shape(lambda key: model.init(key, method=whole), jax.random.key(0))
    return jax.tree.map(lambda x: 0.02 * jax.random.normal(jax.random.key(0), x.shape, dtype), variables["params"])


def with_images(decoder: Any, params: Any, dtype: str) -> tuple[Any, Any, Any]:
    """A LLaVA of this language model: model, parameters, and a processor of its images."""
    from types import SimpleNamespace

    import jax

    from pivot_jax.data.processing.geometry import Square
    from pivot_jax.data.processing.processor import Processor
    from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig, init_params
    from pivot_jax.models.vit import ViTConfig

    sizes = dict(image_size=PIXELS, patch_size=PATCH, width=768, depth=12, heads=12, mlp_dim=3072)
    model = MLLM(MLLMConfig(ViTConfig(**sizes, scan_layers=False), ProjectorConfig(), decoder, dtype))
    like = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    made = jax.tree.map(lambda x: 0.02 * jax.random.normal(jax.random.key(0), x.shape, dtype), like)
    chat: Any = SimpleNamespace(tokenizer=None, pad_id=0, mrope=False, limits=SimpleNamespace(images=1))
    return model, made | params, Processor(chat, Square("siglip", PIXELS, (PIXELS // PATCH) ** 2), "prompt")


def llava(text: Any) -> Any:
    """Transformers' LLaVA: a language model of transformers after a SigLIP-B/16 with random weights."""
    import transformers

    vision = transformers.SiglipVisionConfig(image_size=PIXELS, patch_size=PATCH, num_hidden_layers=12)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text.config, image_token_index=0, vision_feature_select_strategy="full"
    )
    model = transformers.LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    return model


class TorchSide:
    def prepare(self, folder: str, dtype: str) -> None:
        import torch
        import transformers

        self._torch, self._transformers, self._folder = torch, transformers, folder
        self._device, self._dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, dtype)
        self._models: dict[bool, Any] = {}

    def _model(self, image: bool) -> Any:
        if image not in self._models:
            model = llava(self._text()) if image else self._text()
            self._models[image] = model.to(self._device, self._dtype).eval()
        return self._models[image]

    def _text(self) -> Any:
        kind = self._transformers
        if self._folder:
            return kind.AutoModelForCausalLM.from_pretrained(self._folder, dtype=self._dtype)
        sizes = dict(vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28)
        heads = dict(num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True)
        return kind.Qwen2ForCausalLM._from_config(kind.Qwen2Config(**sizes, **heads), dtype=self._dtype)

    def run(self, case: str) -> float:
        torch, (_, n, _, new, image) = self._torch, CASES[case]
        model = self._model(image)
        text = tokens_of(case, 8000)
        patches = (PIXELS // PATCH) ** 2 if image else 0
        tokens = np.concatenate([text[:, :2], np.zeros((len(text), patches), np.int32), text[:, 2:]], axis=1)
        inputs = {"input_ids": torch.tensor(tokens, dtype=torch.long, device=self._device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if image:
            shown = np.stack([pixels(number) for number in range(len(text))]).transpose(0, 3, 1, 2)
            inputs["pixel_values"] = torch.tensor(shown / 127.5 - 1, dtype=self._dtype, device=self._device)
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=n,
                max_new_tokens=new, min_new_tokens=new, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        if self._device == "cuda":
            torch.cuda.synchronize()
        assert out.shape == (len(text) * n, tokens.shape[1] + new)
        return time.perf_counter() - start


class VllmProcess:
    """vLLM in a Python of its own, which runs this file; a :class:`Side` would import this Python's packages there."""

    def __init__(self, python: str):
        # All cores, as the other sides have: of its own accord vLLM binds threads to cores, and spares one.
        threads = {"OMP_NUM_THREADS": str(os.cpu_count()), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        self._process = subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | threads | {"VLLM_CPU_KVCACHE_SPACE": "2"},
        )  # fmt: skip

    def ask(self, method: str, *arguments: Any, limit: float = 0.0) -> Any:
        pipes: Any = self._process.stdin, self._process.stdout
        try:
            pipes[0].write(json.dumps([method, *arguments]) + "\n")
            pipes[0].flush()
            while line := pipes[1].readline():
                if line.startswith(ANSWER):
                    good, value = json.loads(line.removeprefix(ANSWER))
                    if good:
                        return value
                    raise SideError(value)
        except OSError as error:
            raise SideError(str(error)) from None
        raise SideError("its process ended")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its engine and workers too
        self._process.wait()


def answer_vllm() -> None:
    """Loads and measures as the lines of standard input say."""
    import vllm

    model = None
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            if method == "prepare":
                folder, dtype = arguments
                # Without a cache of images: each run encodes its own, as the other sides do.
                model, value = vllm.LLM(folder, dtype=dtype, max_model_len=1024, mm_processor_cache_gb=0), None
            else:
                value = run_vllm(vllm, model, *arguments)
            found = [True, value]
        except Exception as error:
            found = [False, measure.one_line(error)]
        print(f"{ANSWER}{json.dumps(found)}", flush=True)


_NUMBERS = itertools.count()  # of images: vLLM keeps the features of those it has seen


def run_vllm(vllm: Any, model: Any, case: str) -> float:
    _, n, _, new, image = CASES[case]
    prompts: list[dict[str, Any]] = [{"prompt_token_ids": row.tolist()} for row in tokens_of(case, 8000)]
    if image:
        from PIL import Image

        for prompt in prompts:
            prompt["prompt_token_ids"].insert(2, 0)
            prompt["multi_modal_data"] = {"image": Image.fromarray(pixels(next(_NUMBERS)))}
    sampling = vllm.SamplingParams(n=n, temperature=1.0, max_tokens=new, ignore_eos=True, logprobs=0)
    model.reset_prefix_cache()
    start = time.perf_counter()
    found = model.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - start
    assert all(len(one.token_ids) == new for request in found for one in request.outputs)
    return seconds


def request_lengths() -> np.ndarray:
    """Tokens of each response of the refill case."""
    lengths = np.random.default_rng(0).exponential(MEAN * 1.0, REQUESTS).astype(int).clip(1, LONGEST)
    lengths[REQUESTS // 2] = LONGEST
    return lengths


class RefillSide:
    """Ours alone: responses of very different lengths, on a model whose matrices take most of a step, or tiny."""

    def prepare(self, tiny: bool) -> float:
        """Compiles; the mean length."""
        from pivot_jax.models.decoder import DecoderConfig
        from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
        from pivot_jax.rollout.sampler import Sampler, Shape

        # Two layers in the proportions of Qwen2.5-0.5B, at half its width.
        sizes = dict(width=448, heads=7, mlp_dim=2432, vocab_size=4096)
        if tiny:
            sizes = dict(width=64, heads=2, mlp_dim=128, vocab_size=512)
        model = LanguageModel(LanguageModelConfig(DecoderConfig(**sizes, depth=2, kv_heads=1)))
        self._sampler = Sampler(model, None, Shape(slots=SLOTS, prompts=16, steps=32))
        self._sampler.update(random_params(model, "float32"), 0)
        self._lengths = request_lengths()
        self.run("warm-up")
        return float(self._lengths.mean())

    def run(self, how: str) -> float:
        from pivot_jax.data.example import Example
        from pivot_jax.data.processing.batch import EncodedRow
        from pivot_jax.rollout.engine import Prompt, Sampling

        none, where = np.zeros(0, np.int32), np.arange(16, dtype=np.int32)
        row = EncodedRow("row", where + 5, np.full(16, -1, np.int32), where, 0 * where, none, none, none)
        prompts = [Prompt(Example("row", ()), row, i, int(limit)) for i, limit in enumerate(self._lengths)]
        calls = {"refill": [prompts], "waiting": [prompts[i : i + SLOTS] for i in range(0, REQUESTS, SLOTS)]}
        calls["warm-up"] = [prompts[REQUESTS // 2 :][: 2 * SLOTS]]
        start = time.perf_counter()
        for call in calls[how]:
            self._sampler.generate(call, 1, Sampling(LONGEST), (0, 0))
        return time.perf_counter() - start


if __name__ == "__main__":
    answer_vllm()
