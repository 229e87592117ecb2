"""token_logprobs compared with full logits in JAX and PyTorch: time, peak temporaries, error against float64.

    python benchmarks/logprobs.py

Forward and backward of a weighted sum of target log-probs, gradients of hidden states and head. "full" is the
obvious code in JAX, log_softmax of all logits; PyTorch's side is cross_entropy of all logits. The sides take turns,
each in its own process. Peak temporaries are XLA's own count of the compiled program. For PyTorch on a GPU they are the
maximum of memory in use during a step beyond the memory in use before it.

Errors are those of log-probs and gradients at the first tokens, compared with NumPy in float64 (the gradient of the
head at those tokens' targets). In the checked run, which is the same program, only these tokens have a weight.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Budget, Record, Side, SideError

# tokens, width, vocabulary
SHAPES = {
    "8192 x 896 x 151936": (8192, 896, 151936),  # Qwen2.5 0.5B
    "2048 x 512 x 32768": (2048, 512, 32768),
}
TINY = {"64 x 16 x 1000": (64, 16, 1000)}
CHECKED = 64  # tokens


def draw(shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Hidden states, head (logits of about unit size), targets; equal in every process."""
    tokens, width, vocabulary = shape
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((tokens, width), dtype=np.float32)
    head = rng.standard_normal((vocabulary, width), dtype=np.float32) * width**-0.5
    return hidden, head, rng.integers(0, vocabulary, tokens)


def weights(tokens: int, checked: bool) -> np.ndarray:
    return np.where(np.arange(tokens) < (CHECKED if checked else tokens), 1.0, 0.0).astype(np.float32)


class JaxSide:
    """JAX's side; ``kind`` is ours or full."""

    def __init__(self, kind: str) -> None:
        import jax

        self._jax, self._kind = jax, kind

    def describe(self) -> tuple[str, str]:
        return self._jax.default_backend(), self._jax.devices()[0].device_kind

    def prepare(self, shape: tuple[int, int, int], dtype: str) -> dict[str, Any]:
        """Compiles the step. Returns outputs at the checked tokens, and bytes of temporaries."""
        jax, jnp = self._jax, self._jax.numpy
        hidden, head, targets = draw(shape)
        self._arguments = (jnp.asarray(hidden, dtype), jnp.asarray(head, dtype), jnp.asarray(targets, jnp.int32))

        def logps(hidden, head, targets):
            if self._kind == "ours":
                from pivot_jax.kernels.token_logprobs import token_logprobs

                return token_logprobs(hidden, head, targets).logps
            logits = jnp.einsum("td,vd->tv", hidden, head, preferred_element_type=jnp.float32)
            return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]

        def step(hidden, head, targets, weights):
            out, pull = jax.vjp(lambda h, w: logps(h, w, targets), hidden, head)
            return out, *pull(weights)

        count = len(targets)
        self._weights = jnp.asarray(weights(count, False))
        self._step = jax.jit(step).lower(*self._arguments, self._weights).compile()
        out, d_hidden, d_head = self._step(*self._arguments, jnp.asarray(weights(count, True)))
        found = {"logps": out[:CHECKED], "d_hidden": d_hidden[:CHECKED], "d_head": d_head[targets[:CHECKED]]}
        memory = self._step.memory_analysis()
        return {
            "temporaries": memory.temp_size_in_bytes if memory else None,
            "arrays": {name: np.asarray(x, np.float32) for name, x in found.items()},
        }

    def run(self, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            last = self._step(*self._arguments, self._weights)
        self._jax.block_until_ready(last)
        return (time.perf_counter() - start) / times


class TorchSide:
    def __init__(self, kind: str) -> None:
        import torch

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def describe(self) -> tuple[str, str]:
        torch = self._torch
        return ("gpu", torch.cuda.get_device_name()) if self._device == "cuda" else ("cpu", "cpu")

    def prepare(self, shape: tuple[int, int, int], dtype: str) -> dict[str, Any]:
        torch = self._torch
        hidden, head, targets = (torch.tensor(x, device=self._device) for x in draw(shape))
        self._hidden, self._head = (x.to(getattr(torch, dtype)).requires_grad_() for x in (hidden, head))
        self._targets = targets
        self._weights, checked = (torch.tensor(weights(shape[0], c), device=self._device) for c in (False, True))
        before = torch.cuda.memory_allocated() if self._device == "cuda" else 0
        out, d_hidden, d_head = self._step(checked)
        found = {"logps": out[:CHECKED], "d_hidden": d_hidden[:CHECKED], "d_head": d_head[targets[:CHECKED]]}
        arrays = {name: x.detach().float().cpu().numpy() for name, x in found.items()}
        held = sum(x.numel() * x.element_size() for x in (out, d_hidden, d_head))  # results are not temporaries
        peak = torch.cuda.max_memory_allocated() - before - held if self._device == "cuda" else None
        return {"temporaries": peak, "arrays": arrays}

    def _step(self, weights: Any) -> tuple[Any, ...]:
        logits = self._hidden @ self._head.T
        entropy = self._torch.nn.functional.cross_entropy(logits.float(), self._targets, reduction="none")
        return -entropy, *self._torch.autograd.grad(-entropy, (self._hidden, self._head), weights)

    def run(self, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            self._step(self._weights)
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return (time.perf_counter() - start) / times


def errors(shape: tuple[int, int, int], dtype: str, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest error over largest value, of each output at the checked tokens; log-probs: largest error."""
    from attention_cases import rounded

    hidden, head, targets = draw(shape)
    hidden, targets = rounded(hidden, dtype)[:CHECKED].astype(np.float64), targets[:CHECKED]
    head = rounded(head, dtype).astype(np.float64)
    logits = hidden @ head.T
    top = logits.max(axis=1, keepdims=True)
    logps = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    d_logits = -np.exp(logps)
    np.add.at(d_logits, (np.arange(len(targets)), targets), 1.0)
    want = {
        "logps": logps[np.arange(len(targets)), targets],
        "d_hidden": d_logits @ head,
        "d_head": d_logits[:, targets].T @ hidden,
    }
    largest = {name: float(np.abs(arrays[name] - x).max()) for name, x in want.items()}
    return {name: x if name == "logps" else x / float(np.abs(want[name]).max()) for name, x in largest.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "logprobs.json")
    parser.add_argument("--ours-only", action="store_true", help="measure only our implementation")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, to test that it runs")
    args = parser.parse_args()
    budget = Budget(args.limit)
    sides = {"ours": Side(JaxSide, "ours")}
    platform, device = sides["ours"].ask("describe")
    record = Record(args.json, device)
    shapes = TINY if args.smoke else SHAPES
    if platform == "cpu" and not args.smoke:
        shapes = {name: shape for name, shape in SHAPES.items() if shape[2] < 100_000}
    if platform == "tpu":
        record.leave_out("full", "only one process can use a TPU")
    elif not args.ours_only:
        sides["full"] = Side(JaxSide, "full")
    if not measure.version("torch"):
        record.leave_out("torch", "not installed")
    elif platform != "tpu" and not args.ours_only:
        sides["torch"] = Side(TorchSide, "full")
        if (there := sides["torch"].ask("describe")[0]) != platform:
            record.leave_out("torch", f"has no {platform} on this machine, only {there}")
            sides.pop("torch").close()
    dtype = "float32" if platform == "cpu" else "bfloat16"
    record.content["dtype"] = dtype
    for name, shape in shapes.items():
        if budget.left < 15:
            record.leave_out(name, "no time left")
            continue
        record.add(name, measure_shape(sides, shape, dtype, args.rounds, budget))
        show(name, record.content["results"][name])
    for side in sides.values():
        side.close()
    print(f"written: {record.path}")


def measure_shape(
    sides: dict[str, Side], shape: tuple[int, int, int], dtype: str, rounds: int, budget: Budget
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side in sides.values():
        side.send("prepare", shape, dtype)
    for name, side in sides.items():
        try:
            got = side.receive(min(120.0, budget.left - 5))
        except SideError as error:
            found[name] = {"state": str(error)}
            continue
        found[name] = {
            "state": "ran",
            "temporary_mib": None if got["temporaries"] is None else got["temporaries"] / 2**20,
            "errors": errors(shape, dtype, got["arrays"]),
        }
    ready = {name: side for name, side in sides.items() if found[name]["state"] == "ran"}
    times = 1 if dtype == "float32" else 4  # a CPU takes seconds, a GPU milliseconds
    turns = {name: (lambda side=side: side.ask("run", times, limit=60.0)) for name, side in ready.items()}
    measured, dropped = measure.take_turns(turns, rounds, warmup=1)
    for name, seconds in measured.items():
        found[name]["ms"] = measure.summary([1e3 * s for s in seconds])
    for name, reason in dropped.items():
        found[name]["state"] = reason
    return found


def show(shape: str, found: dict[str, Any]) -> None:
    print(f"\n{shape:24}{'ms':>10}{'quartiles':>20}{'MiB':>9}   errors: log-prob, gradients of states and head")
    for name, x in found.items():
        if "ms" not in x:
            print(f"  {name:22}{x['state']}")
            continue
        ms, mib = x["ms"], x["temporary_mib"]
        spread = f"{ms['low']:.2f}-{ms['high']:.2f}"
        listed = ", ".join(f"{value:.1e}" for value in x["errors"].values())
        print(
            f"  {name:22}{ms['median']:10.2f}{spread:>20}{'-' if mib is None else f'{mib:.0f}':>9}   {listed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
