"""Our SFT and DPO step compared with the PyTorch step that a user would write, on the CPU.

    python benchmarks/cpu_step.py [--rounds 12] [--rows 4] [--threads 2] [--json benchmarks/results/cpu_step.json]

Both sides start from one exported folder and train on the same rows in float32: 256 image and 64 text tokens per
sequence (32 prompt, 32 answer), clipping, AdamW, all parameters that get gradients.

* PyTorch: transformers' LLaVA with SDPA and fused AdamW. Logits only for the answer (``logits_to_keep``). DPO as
  in TRL: chosen and rejected as two sequences, the image twice, the reference model's forward pass in the step.
* Ours: the train loop's compiled step, with unrolled layers (``scan_layers=False``) and the allocator's settings of
  ``pivot-jax train``. A pair is one row, and the image is encoded once. DPO runs with the reference log-probs
  stored (our default: computed once per run) and, for the same work as PyTorch, with the reference model in the step.

Each side has its own child process. The parent lets them take turns, a step each, so a slow moment of the machine
affects both.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np

PROMPT, ANSWER, PATCHES = 32, 32, 256
TASKS = ("sft", "dpo", "dpo_reference_in_step")
IMAGE_TOKEN, VOCAB, RATE, BETA = 5, 8192, 1e-4, 0.1


def model_config() -> Any:
    """About 20M parameters: a 7-block encoder of width 256 and an 8-block decoder of width 384."""
    from pivot_jax.models.decoder import DecoderConfig
    from pivot_jax.models.mllm import MLLMConfig, ProjectorConfig
    from pivot_jax.models.vit import ViTConfig

    vision = ViTConfig(image_size=256, patch_size=16, width=256, depth=7, heads=4, mlp_dim=1024)
    decoder = DecoderConfig(vocab_size=VOCAB, width=384, depth=8, heads=6, kv_heads=2, mlp_dim=1024)
    return MLLMConfig(vision, ProjectorConfig(), decoder)


def unrolled(cfg: Any, remat: str) -> Any:
    own = {"scan_layers": False, "remat": remat}
    towers = {name: dataclasses.replace(getattr(cfg, name), **own) for name in ("vision", "decoder")}
    return dataclasses.replace(cfg, **towers)


def make_data(rows: int) -> dict[str, np.ndarray]:
    """uint8 images [b, 256, 256, 3]; token ids of prompts and of both answers."""
    rng = np.random.default_rng(0)
    ids = {
        name: rng.integers(6, VOCAB, (rows, n))
        for name, n in (("prompt", PROMPT), ("chosen", ANSWER), ("rejected", ANSWER))
    }
    return {"images": rng.integers(0, 256, (rows, 256, 256, 3), dtype=np.uint8), **ids}


# ---- PyTorch


class TorchSide:
    """A PyTorch user's step."""

    def __init__(self, folder: Path, task: str, rows: int, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.disable_progress_bar()
        self.torch, self.task = torch, task
        load = transformers.LlavaForConditionalGeneration.from_pretrained
        self.model = load(folder, dtype=torch.float32, attn_implementation="sdpa").train()
        self.reference = load(folder, dtype=torch.float32, attn_implementation="sdpa").eval() if task != "sft" else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
        self.inputs, self.targets = self._inputs(make_data(rows))

    def _inputs(self, data: dict[str, np.ndarray]) -> tuple[dict[str, Any], Any]:
        torch = self.torch
        pixels = torch.tensor(data["images"]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)
        image = np.full((len(pixels), PATCHES), IMAGE_TOKEN)
        answers = ("chosen",) if self.task == "sft" else ("chosen", "rejected")
        ids = [np.concatenate([image, data["prompt"], data[name]], axis=1) for name in answers]
        tokens = torch.tensor(np.concatenate(ids), dtype=torch.long)
        inputs = {
            "input_ids": tokens,
            "pixel_values": pixels.repeat(len(answers), 1, 1, 1),  # TRL repeats the images for chosen and rejected
            "attention_mask": torch.ones_like(tokens),
            "use_cache": False,
            "logits_to_keep": ANSWER + 1,
        }
        return inputs, tokens[:, -ANSWER:]

    def _logps(self, model: Any) -> Any:
        logits = model(**self.inputs).logits[:, :-1]
        return -self.torch.nn.functional.cross_entropy(logits.transpose(1, 2), self.targets, reduction="none")

    def step(self) -> float:
        torch = self.torch
        logps = self._logps(self.model)
        if self.reference is None:
            loss = -logps.mean()
        else:
            with torch.no_grad():
                base = self._logps(self.reference).sum(1)
            chosen, rejected = (logps.sum(1) - base).chunk(2)
            loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


# ---- ours


class JaxSide:
    """The train loop's own compiled step, on one device."""

    def __init__(self, folder: Path, task: str, rows: int, threads: int, remat: str = "none"):
        from pivot_jax.parallel import runtime

        runtime.keep_freed_memory()
        import jax

        from pivot_jax import hub
        from pivot_jax.models.mllm import MLLM, init_params
        from pivot_jax.objectives.table import build_objective
        from pivot_jax.parallel.mesh import make_mesh
        from pivot_jax.train.model import Model
        from pivot_jax.train.setup import assemble

        self.jax, self.task = jax, task
        config = self._config(task)
        module = MLLM(unrolled(hub.read_config(folder).mllm, remat))
        model = Model(module, lambda key: init_params(module, key))
        mesh, steps = make_mesh(config.parallel, jax.devices()[:1]), argparse.Namespace(total_steps=1000)
        setup = assemble(config, mesh, steps, model, build_objective(module, config))
        params = setup.per_layer(hub.load_params(folder, setup.shardings))
        self.reference = jax.tree.map(lambda x: x.copy(), params) if task == "dpo_reference_in_step" else None
        batch = self._batch(make_data(rows))
        if task == "dpo":
            batch = batch.replace(ref_logps=self._stored(module, params, batch))
        self.state, self.run, self.mesh = setup.fresh_state(params), setup.compiled_step(), setup.mesh
        self.batch = jax.device_put(batch, setup.mesh.devices.flat[0])

    def _config(self, task: str) -> Any:
        from pivot_jax import config as configs

        config = configs.base()
        config.objective.name = "sft" if task == "sft" else "dpo"
        config.objective.beta = BETA
        config.objective.reference = "step" if task == "dpo_reference_in_step" else "stored"
        config.optimizer.rules = ((".*", RATE),)
        config.optimizer.schedule, config.optimizer.warmup_ratio = "constant", 0.0
        return config

    def _batch(self, data: dict[str, np.ndarray]) -> Any:
        """Rows as ``Chat`` and ``collate`` build them: image, prompt, then one answer, or both as branches."""
        from pivot_jax.data.processing.batch import EncodedRow
        from pivot_jax.data.processing.collate import Collation, vlm_batch
        from pivot_jax.data.processing.geometry import ImageArrays

        answers = ("chosen",) if self.task == "sft" else ("chosen", "rejected")
        start, count = PATCHES + PROMPT, ANSWER * len(answers)
        places = np.arange(start + count)
        branches = (
            np.where(places < start, 0, 1 + (places - start) // ANSWER) if count > ANSWER else np.zeros_like(places)
        )
        sources = np.where((places[start:] - start) % ANSWER == 0, start - 1, places[start:] - 1)
        rows = []
        for i in range(len(data["images"])):
            text = np.concatenate([data["prompt"][i], *(data[name][i] for name in answers)])
            row = EncodedRow(
                id=str(i),
                tokens=np.concatenate([np.full(PATCHES, IMAGE_TOKEN), text]),
                image_slots=np.where(places < PATCHES, places, -1),
                positions=np.where(branches == 2, places - ANSWER, places),
                branches=branches,
                sources=sources,
                targets=text[PROMPT:],
                target_branches=branches[start:],
            )
            rows.append(row)
        return vlm_batch(
            rows,
            ImageArrays(data["images"][:, None]),
            np.arange(len(rows)),
            (start + count, count),
            Collation(0, PATCHES),
        )

    def _stored(self, module: Any, params: Any, batch: Any) -> Any:
        from pivot_jax.models.logprobs import score

        return np.asarray(self.jax.jit(lambda p, b: score(module, p, b).logps)(params, batch))

    def step(self) -> float:
        with self.jax.set_mesh(self.mesh):
            self.state, metrics = self.run(self.state, self.batch, self.reference)
        return float(metrics["loss"])  # waits for the whole step


# ---- taking turns


def serve(side: type, pipe: Any, *arguments: Any) -> None:
    """Child process: a step per request, answered with (seconds, CPU seconds, loss); at the end the peak in MiB."""
    worker = side(*arguments)
    while pipe.recv():
        begin, busy = time.perf_counter(), time.process_time()
        loss = worker.step()
        pipe.send((time.perf_counter() - begin, time.process_time() - busy, loss))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare(task: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    sides: dict[str, Any] = {}
    times, busy, losses, peaks = ({"pytorch": [], "ours": []} for _ in range(4))
    for name, side in (("pytorch", TorchSide), ("ours", JaxSide)):
        here, there = spawn.Pipe()
        process = spawn.Process(target=serve, args=(side, there, folder, task, args.rows, args.threads), daemon=True)
        process.start()
        sides[name] = (here, process)
    for turn in range(args.warmup + args.rounds):
        for name, (pipe, _) in sides.items():
            pipe.send(True)
            seconds, cpu_seconds, loss = pipe.recv()
            losses[name].append(loss)
            if turn >= args.warmup:
                times[name].append(seconds)
                busy[name].append(cpu_seconds)
    for name, (pipe, process) in sides.items():
        pipe.send(False)
        peaks[name] = pipe.recv()
        process.join()
    difference = max(abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["pytorch"], strict=True))
    if difference > 1e-2:
        sys.exit(f"{task}: the two sides' losses differ by {difference:.1%}; they do not do the same work")
    ratios = [t / o for t, o in zip(times["pytorch"], times["ours"], strict=True)]
    return {
        "rows_per_step": args.rows,
        "seconds": times,
        "cpu_seconds": busy,  # of all threads; comparable even if other processes used the machine
        "median_seconds": {name: statistics.median(values) for name, values in times.items()},
        "samples_per_second": {name: args.rows / statistics.median(values) for name, values in times.items()},
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [float(x) for x in np.percentile(ratios, [25, 75])],
        "peak_mib": peaks,
        "largest_loss_gap": difference,
    }


def machine() -> dict[str, Any]:
    from pivot_jax.parallel.chips import processor

    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "torch", "transformers")}
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="measured steps of each side and task")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4, help="rows (SFT) or pairs (DPO) per step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "cpu_step.json")
    args = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import jax

    from pivot_jax import hub
    from pivot_jax.models.mllm import MLLM, init_params

    cfg = model_config()
    params = jax.jit(lambda key: init_params(MLLM(cfg), key))(jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(params))
    print(
        f"{count / 1e6:.1f}M parameters, {PATCHES} image and {PROMPT + ANSWER} text tokens, {args.rows} rows, float32"
    )
    print(
        f"{'task':24}{'PyTorch /s':>12}{'ours /s':>10}{'ratio':>8}  quartiles     peak MiB (PyTorch, ours)", flush=True
    )
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = hub.export_mllm(params, cfg, Path(scratch) / "start", text=hub.ExportText(image_token=IMAGE_TOKEN))
        for task in args.tasks:
            results[task] = found = compare(task, folder, args)
            low, high = found["ratio_quartiles"]
            speed, peak = found["samples_per_second"], found["peak_mib"]
            print(
                f"{task:24}{speed['pytorch']:12.2f}{speed['ours']:10.2f}{found['ratio']:8.2f}  {low:.2f}-{high:.2f}"
                f"     {peak['pytorch']:.0f}, {peak['ours']:.0f}",
                flush=True,
            )
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameters": count,
        "machine": machine(),
        "threads": args.threads,
        "results": results,
    }
    measure.write_json(args.json, record)
    print(f"written: {args.json}")


if __name__ == "__main__":
    main()
