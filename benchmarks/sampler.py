"""Tokens per second of generation, compared with transformers' generate.

    python benchmarks/sampler.py

Greedy, from text prompts, without an end token, so both sides run the same number of steps; random weights in the
compute dtype. Ours is one compiled program per shape, and its compilation time is reported separately. The sides take
turns, a batch of answers each. A GPU runs Qwen2.5-1.5B, a CPU a model of 20M parameters.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Budget, Record, Side, SideError

# prompt tokens, new tokens, rows
WORK = {"1.5B": (640, 64, 16), "small": (128, 32, 4), "tiny": (8, 4, 2)}


def decoder_config(size: str) -> Any:
    from pivot_jax.models.decoder import DecoderConfig

    if size == "1.5B":
        from pivot_jax.models.zoo import DECODERS

        return DECODERS["Qwen/Qwen2.5-1.5B-Instruct"]
    width = 384 if size == "small" else 32
    return DecoderConfig(
        vocab_size=8192, width=width, depth=8, heads=6 if size == "small" else 2, kv_heads=2, mlp_dim=1024
    )


class JaxSide:
    def __init__(self) -> None:
        import jax

        self._jax = jax

    def describe(self) -> dict[str, str]:
        return {"platform": self._jax.default_backend(), "kind": self._jax.devices()[0].device_kind}

    def prepare(self, size: str, dtype: str) -> float:
        """Seconds of the first call, which compiles."""
        from functools import partial

        from pivot_jax.data.example import Example
        from pivot_jax.data.processing.batch import EncodedRow
        from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
        from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig, init_params
        from pivot_jax.models.vit import ViTConfig
        from pivot_jax.rollout.engine import Prompt
        from pivot_jax.rollout.sampler import Sampler, Shape

        jax, jnp = self._jax, self._jax.numpy
        eye = ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp_dim=8)  # not used: text only
        mllm = MLLM(MLLMConfig(eye, ProjectorConfig(), decoder_config(size), dtype))
        like = {"decoder": jax.eval_shape(partial(init_params, mllm), jax.random.key(0))["decoder"]}
        params = jax.tree.map(lambda x: 0.02 * jax.random.normal(jax.random.key(0), x.shape, jnp.dtype(dtype)), like)
        n, self._new, rows = WORK[size]
        model = LanguageModel(LanguageModelConfig(decoder_config(size), dtype))
        self._sampler = Sampler(model, None, Shape(slots=rows, prompts=rows, steps=min(32, self._new)))
        self._sampler.update(params, 0)
        none, indices = np.zeros(0, np.int32), np.arange(n, dtype=np.int32)
        zeros, slots = np.zeros(n, np.int32), np.full(n, -1, np.int32)
        tokens = np.random.default_rng(0).integers(6, 8000, (rows, n)).astype(np.int32)
        self._prompts = [
            Prompt(Example(str(i), ()), EncodedRow(str(i), row, slots, indices, zeros, none, none, none), i)
            for i, row in enumerate(tokens)
        ]
        return self.run()

    def run(self) -> float:
        from pivot_jax.rollout.engine import Sampling

        start = time.perf_counter()
        found = self._sampler.generate(self._prompts, 1, Sampling(self._new, temperature=0.0), (0, 0))
        assert all(len(one.tokens) == self._new for (one,) in found.responses)
        return time.perf_counter() - start


class TorchSide:
    def __init__(self) -> None:
        import torch
        import transformers

        self._torch, self._transformers = torch, transformers
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def prepare(self, size: str, dtype: str) -> float:
        torch, decoder = self._torch, decoder_config(size)
        config = self._transformers.Qwen2Config(
            vocab_size=decoder.vocab_size, hidden_size=decoder.width, intermediate_size=decoder.mlp_dim,
            num_hidden_layers=decoder.depth, num_attention_heads=decoder.heads,
            num_key_value_heads=decoder.kv_heads, tie_word_embeddings=decoder.tied, max_position_embeddings=4096,
        )  # fmt: skip
        with torch.device(self._device):
            model = self._transformers.Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa")
        self._model = model.to(getattr(torch, dtype)).eval()
        n, self._new, rows = WORK[size]
        tokens = np.random.default_rng(0).integers(6, 8000, (rows, n))
        self._tokens = torch.tensor(tokens, device=self._device)
        return self.run()

    def run(self) -> float:
        torch = self._torch
        start = time.perf_counter()
        with torch.inference_mode():
            out = self._model.generate(
                self._tokens, attention_mask=torch.ones_like(self._tokens), do_sample=False, pad_token_id=0,
                eos_token_id=None, max_new_tokens=self._new, min_new_tokens=self._new,
            )  # fmt: skip
        if self._device == "cuda":
            torch.cuda.synchronize()
        assert out.shape[1] == self._tokens.shape[1] + self._new
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=WORK, help="default: 1.5B on an accelerator, small on a CPU")
    parser.add_argument("--ours-only", action="store_true", help="measure only our implementation")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "sampler.json")
    args = parser.parse_args()
    budget = Budget(args.limit)
    sides: dict[str, Side] = {"ours": Side(JaxSide)}
    about = sides["ours"].ask("describe")
    record = Record(args.json, about["kind"])
    missing = [name for name in ("torch", "transformers") if not measure.version(name)]
    if missing:
        record.leave_out("transformers", f"{' and '.join(missing)} not installed")
    elif about["platform"] != "tpu" and not args.ours_only:
        sides["transformers"] = Side(TorchSide)
    size = args.size or ("small" if about["platform"] == "cpu" else "1.5B")
    prompt, new, rows = WORK[size]
    dtype = "float32" if about["platform"] == "cpu" else "bfloat16"
    record.content |= {"size": size, "prompt_tokens": prompt, "new_tokens": new, "rows": rows, "dtype": dtype}
    found: dict[str, Any] = {}
    for side in sides.values():
        side.send("prepare", size, dtype)
    for name, side in sides.items():
        try:
            found[name] = {"state": "ran", "first_call_seconds": side.receive(budget.left - 5)}
        except SideError as error:
            found[name] = {"state": str(error)}
    ready = {name: side for name, side in sides.items() if found[name]["state"] == "ran"}
    turns = {name: (lambda side=side: side.ask("run", limit=budget.left)) for name, side in ready.items()}
    times, dropped = measure.take_turns(turns, args.rounds)
    found |= {name: {"state": reason} for name, reason in dropped.items()}
    for name, seconds in times.items():
        found[name]["tokens_per_second"] = measure.summary([rows * new / s for s in seconds])
    record.add(f"{size}, {rows} x {prompt} + {new}", found)
    for name, x in found.items():
        speed = x.get("tokens_per_second")
        text = f"{speed['median']:.0f} [{speed['low']:.0f}, {speed['high']:.0f}] tokens/s" if speed else x["state"]
        print(f"{name:14}{text}")
    for side in sides.values():
        side.close()
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
