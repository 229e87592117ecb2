"""The two train steps that ``step.py`` compares, each in its own process, and the data of both.

Neither needs files: weights are random, which does not change the time of a step.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import measure  # noqa: F401, puts the repository on the path
import numpy as np

PROMPT, ANSWER = 64, 64
ANSWERS = {"sft": 1, "dpo": 2, "grpo": 8}  # of a row
RATE, BETA, CLIP = 1e-6, 0.1, 1.0
SIZES = {
    "1.5B": ("google/siglip2-so400m-patch16-384", "Qwen/Qwen2.5-1.5B-Instruct"),
    "0.5B": ("google/siglip2-so400m-patch16-384", "Qwen/Qwen2.5-0.5B-Instruct"),
    "tiny": None,
}


def model_config(size: str, dtype: str, remat: str) -> Any:
    """SigLIP2 So400m at 384 pixels with a Qwen2.5, or a few thousand parameters."""
    from pivot_jax.models.decoder import DecoderConfig
    from pivot_jax.models.mllm import MLLMConfig, ProjectorConfig
    from pivot_jax.models.vit import ViTConfig

    if size == "tiny":
        vision = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_dim=64)
        decoder = DecoderConfig(vocab_size=512, width=32, depth=2, heads=4, kv_heads=2, mlp_dim=64)
    else:
        from pivot_jax.models.zoo import DECODERS, VISION

        vision, decoder = VISION[SIZES[size][0]], DECODERS[SIZES[size][1]]
    vision, decoder = (dataclasses.replace(part, remat=remat) for part in (vision, decoder))
    return MLLMConfig(vision, ProjectorConfig(), decoder, dtype)


def draw(config: Any, rows: int) -> dict[str, np.ndarray]:
    """uint8 images, and token ids of prompts, of both answers of a pair, and of ``more`` [rows, 6, ANSWER]."""
    rng, size = np.random.default_rng(0), config.vision.image_size
    ids = {
        name: rng.integers(6, config.decoder.vocab_size, (rows, n)).astype(np.int32)
        for name, n in (("prompt", PROMPT), ("chosen", ANSWER), ("rejected", ANSWER))
    }
    images = rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    more = rng.integers(6, config.decoder.vocab_size, (rows, ANSWERS["grpo"] - 2, ANSWER)).astype(np.int32)
    return {"images": images, "more": more, **ids}


def vlm_batch(config: Any, task: str, rows: int) -> Any:
    """Rows as the loader builds them: image, prompt, then one answer, or several as branches."""
    from pivot_jax.data.processing.batch import VLMBatch

    data, patches = draw(config, rows), config.vision.patches
    answers = [data["chosen"], data["rejected"], *data["more"].swapaxes(0, 1)][: ANSWERS[task]]
    start, count = patches + PROMPT, ANSWER * len(answers)
    at, target = np.arange(start + count), np.arange(count)
    branches = np.where(at < start, 0, 1 + (at - start) // ANSWER) if task != "sft" else np.zeros_like(at)
    every = lambda x: np.tile(x.astype(np.int32), (rows, 1))  # noqa: E731
    return VLMBatch(
        images=data["images"][:, None],
        tokens=np.concatenate([np.full((rows, patches), 5, np.int32), data["prompt"], *answers], 1),
        image_slots=every(np.where(at < patches, at, -1)),
        positions=every(at - ANSWER * np.maximum(branches - 1, 0)),
        segments=every(np.ones_like(at)),
        branches=every(branches),
        sources=every(np.where(target % ANSWER == 0, start - 1, start + target - 1)),
        targets=np.concatenate(answers, 1),
        weights=np.ones((rows, count), np.float32),
        target_branches=every(branches[start:]),
        target_rows=np.zeros((rows, count), np.int32),
        row_index=np.arange(rows, dtype=np.int32)[:, None],
        ref_logps=np.full((rows, count), -np.log(config.decoder.vocab_size), np.float32) if task == "dpo" else None,
        advantages=np.tile(np.repeat(np.linspace(-1, 1, len(answers)), ANSWER), (rows, 1)).astype(np.float32)
        if task == "grpo"
        else None,
    )


def build_objective(task: str, module: Any) -> Any:
    """The task's objective. A config needs ml_collections, which a GPU machine may lack; these are its sections."""
    from types import SimpleNamespace

    if task == "sft":
        from pivot_jax.objectives.sft import build_sft

        return build_sft(module)
    if task == "dpo":
        from pivot_jax.objectives.preference import build_preference
        from pivot_jax.objectives.preference_losses import SETTINGS

        section = SimpleNamespace(**SETTINGS, name="dpo", terms=(), beta=BETA)
        return build_preference(module, section)
    from pivot_jax.objectives.algorithm import Algorithm
    from pivot_jax.objectives.policy import build_policy

    class Section(dict):
        __getattr__ = dict.__getitem__

    presets = {field.name: "" for field in dataclasses.fields(Algorithm)}
    own = dict(algorithm="trl-grpo", importance="none", responses=ANSWERS[task], max_tokens=ANSWER, temperature=1.0)
    return build_policy(module, Section(presets | own))


class JaxSide:
    """The train loop's step: float32 weights, matmuls in bfloat16 on accelerators, reference log-probs stored."""

    def __init__(self, size: str | None, remat: str) -> None:
        import jax

        self._jax = jax
        small = jax.default_backend() == "cpu"
        self._size, self._dtype = size or ("tiny" if small else "1.5B"), "float32" if small else "bfloat16"
        self._config = model_config(self._size, self._dtype, remat)
        self._state = self._step = None
        self._programs: dict[tuple[str, int], tuple[Any, float]] = {}

    def describe(self) -> dict[str, Any]:
        stats = self._jax.devices()[0].memory_stats()
        return {
            "platform": self._jax.default_backend(),
            "kind": self._jax.devices()[0].device_kind,
            "size": self._size,
            "dtype": self._dtype,
            "memory_gib": stats["bytes_limit"] / 2**30 if stats else None,
        }

    def prepare(self, task: str, rows: int) -> dict[str, Any]:
        """Compiles the step for a batch and runs it once.

        Raises:
          RuntimeError: out of memory, by XLA's count of the program or when it ran.
        """
        from pivot_jax.models import flops
        from pivot_jax.models.flops import traced_flops
        from pivot_jax.optim.update import build_step

        jax = self._jax
        task = task.removesuffix("_trl")  # ours has the reference's log-probs stored in both
        batch = vlm_batch(self._config, task, rows)
        module, optimizer, like, rates = self._parts()
        objective = build_objective(task, module)
        self._step = self._batch = None
        if self._state is None:
            self._state = self._fresh(optimizer, objective, like, rates)
        self._batch = jax.device_put(batch)
        key = (task, rows)
        if key not in self._programs:
            step = jax.jit(build_step(objective, optimizer, clip=CLIP, accumulate=1), donate_argnums=0)
            traced = step.trace(self._state, self._batch, None)
            compiled = traced.lower().compile()
            self._check_memory(compiled)
            self._programs[key] = compiled, traced_flops(traced.jaxpr)
        try:
            self._step, executed = self._programs[key]
            loss = self.step()[1]
        except Exception:
            self._state = None  # its buffers were donated to the step that failed
            raise
        tokens, targets = batch.tokens.shape[1], batch.targets.shape[1]
        useful = flops.train_step(
            self._config.flops(flops.RowSize(1, tokens, targets)), {"vision", "projector", "decoder"}
        )
        return {
            "rows": rows,
            "tokens_per_row": tokens,
            "parameters": sum(x.size for x in jax.tree.leaves(like)),
            "loss": loss,
            "flops_useful": rows * useful,
            "flops_executed": executed,
            "peak_gib": self._peak(),
        }

    def _parts(self) -> tuple[Any, Any, Any, Any]:
        from functools import partial

        from pivot_jax.models.mllm import MLLM, init_params
        from pivot_jax.optim import adamw, partition

        module = MLLM(self._config)
        like = self._jax.eval_shape(partial(init_params, module), self._jax.random.key(0))
        rates = partition.peak_rates([partition.UNUSED_BY_MLLM, (".*", RATE)], like)
        section = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        section |= {"warmup_ratio": 0.0, "schedule": "constant"}
        return module, adamw.build_optimizer(section, rates, 1000), like, rates

    def _fresh(self, optimizer: Any, objective: Any, like: Any, rates: Any) -> Any:
        from pivot_jax.optim import partition
        from pivot_jax.optim.update import init_state

        jax, jnp = self._jax, self._jax.numpy

        def fill(path: Any, shape: Any) -> Any:
            if path[-1].key == "scale":
                return jnp.ones(shape.shape, jnp.float32)
            return 0.02 * jax.random.normal(jax.random.key(0), shape.shape, jnp.float32)

        params = jax.tree_util.tree_map_with_path(fill, like)
        trained, frozen = partition.split(params, rates)
        return init_state(trained, frozen, jax.jit(optimizer.init)(trained), objective)

    def _check_memory(self, compiled: Any) -> None:
        stats, memory = self._jax.devices()[0].memory_stats(), compiled.memory_analysis()
        if not stats or not memory:
            return
        need = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        need += memory.output_size_in_bytes - memory.alias_size_in_bytes
        if need > stats["bytes_limit"]:
            raise RuntimeError(f"out of memory: needs {need / 2**30:.1f} GiB of {stats['bytes_limit'] / 2**30:.1f}")

    def _peak(self) -> float | None:
        stats = self._jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] / 2**30 if stats else None

    def step(self) -> tuple[float, float]:
        """(seconds, loss) of a complete step; its batch is on the device already."""
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch, None)
        self._jax.block_until_ready(self._state)
        return time.perf_counter() - start, float(metrics["loss"])


class TorchSide:
    """The step of a user of Hugging Face and TRL: LLaVA with SDPA, autocast to bfloat16, fused AdamW.

    Chosen and rejected are two sequences, each with its image, as in TRL. Task "dpo": reference log-probs are
    precomputed (TRL's ``precompute_ref_log_probs``); "dpo_trl": the reference model's forward pass is in the step,
    TRL's default.
    """

    def __init__(self, size: str, remat: str) -> None:
        import torch
        import transformers

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._config = config = model_config(size, "float32", "none")
        vision, decoder = config.vision, config.decoder
        self._hf = transformers.LlavaConfig(
            vision_config=transformers.SiglipVisionConfig(
                hidden_size=vision.width, intermediate_size=vision.mlp_dim, num_hidden_layers=vision.depth,
                num_attention_heads=vision.heads, image_size=vision.image_size, patch_size=vision.patch_size,
                vision_use_head=False,
            ),
            text_config=transformers.Qwen2Config(
                vocab_size=decoder.vocab_size, hidden_size=decoder.width, intermediate_size=decoder.mlp_dim,
                num_hidden_layers=decoder.depth, num_attention_heads=decoder.heads,
                num_key_value_heads=decoder.kv_heads, tie_word_embeddings=decoder.tied, max_position_embeddings=4096,
            ),
            image_token_index=5, vision_feature_select_strategy="full", vision_feature_layer=-2,
            tie_word_embeddings=decoder.tied,
        )  # fmt: skip
        with torch.device(self._device):
            model = transformers.LlavaForConditionalGeneration._from_config(self._hf, attn_implementation="sdpa")
        self._model = model.train()
        if remat != "none":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        fused = self._device == "cuda"
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=fused)

    def describe(self) -> dict[str, Any]:
        torch = self._torch
        kind = torch.cuda.get_device_name() if self._device == "cuda" else "cpu"
        return {"platform": "gpu" if self._device == "cuda" else "cpu", "kind": kind}

    def prepare(self, task: str, rows: int) -> dict[str, Any]:
        torch = self._torch
        self._task, data = task, draw(self._config, rows)
        self._inputs = self._reference = None
        self._optimizer.zero_grad(set_to_none=True)
        if self._device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if task == "grpo":
            raise ValueError("not compared: TRL's GRPOTrainer is, in grpo_step.py")
        answers = ("chosen",) if task == "sft" else ("chosen", "rejected")
        image = np.full((rows, self._config.vision.patches), 5)
        ids = [np.concatenate([image, data["prompt"], data[name]], axis=1) for name in answers]
        tokens = torch.tensor(np.concatenate(ids), dtype=torch.long, device=self._device)
        pixels = torch.tensor(data["images"], device=self._device).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        self._inputs = {
            "input_ids": tokens,
            "pixel_values": pixels.repeat(len(answers), 1, 1, 1),
            "attention_mask": torch.ones_like(tokens),
            "use_cache": False,
            "logits_to_keep": ANSWER + 1,
        }
        if task == "dpo_trl":
            half = torch.bfloat16 if self._device == "cuda" else torch.float32
            self._reference = copy.deepcopy(self._model).to(half).eval().requires_grad_(False)
        loss = self.step()[1]
        peak = torch.cuda.max_memory_allocated() / 2**30 if self._device == "cuda" else None
        count = sum(x.numel() for x in self._model.parameters())
        return {"rows": rows, "tokens_per_row": tokens.shape[1], "parameters": count, "loss": loss, "peak_gib": peak}

    def _logps(self, model: Any) -> Any:
        with self._torch.autocast(self._device, self._torch.bfloat16, enabled=self._device == "cuda"):
            logits = model(**self._inputs).logits[:, :-1]
        targets = self._inputs["input_ids"][:, -ANSWER:]
        cross_entropy = self._torch.nn.functional.cross_entropy
        return -cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")

    def step(self) -> tuple[float, float]:
        torch = self._torch
        start = time.perf_counter()
        logps = self._logps(self._model)
        if self._task == "sft":
            loss = -logps.mean()
        else:
            base = -ANSWER * np.log(self._config.decoder.vocab_size)
            if self._reference is not None:
                with torch.no_grad():
                    base = self._logps(self._reference).sum(1)
            chosen, rejected = (logps.sum(1) - base).chunk(2)
            loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, loss.item()
