"""Real vLLM servers for tests, started by ``launch/vllm.sh`` in the environment of ``make test-vllm``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import urllib3

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
SMALL = (
    "--no-enable-chunked-prefill",
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "256",
    "--max-num-seqs",
    "16",
)
START_S = 400.0  # 35 to 75 seconds on two free cores


def require() -> None:
    """Skips the test where there is no vLLM; ``make test-vllm`` installs it."""
    if not PYTHON.is_file():
        pytest.skip(f"no vLLM at {PYTHON} (run make test-vllm, or set VLLM_PYTHON)")


class Running:
    """A server of this machine with one thread. ``script`` False: without the script's flags and environment."""

    def __init__(self, folder: Path, log: Path, *options: str, script: bool = True):
        self.folder, self.log, self.options = folder, log, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start(script)

    def start(self, script: bool = True) -> None:
        """Starts the process; :meth:`wait` waits until it answers."""
        plain = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder)]
        plain += ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [str(ROOT / "launch/vllm.sh"), str(self.folder), str(self.port)] if script else plain
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "JAX_", "XLA_", "PYTHONPATH"))}
        environment |= {"VLLM_PYTHON": str(PYTHON), "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *SMALL, *self.options],
                env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started = time.monotonic()

    def wait(self) -> Running:
        while time.monotonic() < self.started + START_S:
            if self.process.poll() is not None:
                break
            try:
                if urllib3.request("GET", f"{self.url}/health", retries=False, timeout=5.0).status == 200:
                    return self
            except urllib3.exceptions.HTTPError:
                time.sleep(0.5)
        self.kill()
        raise AssertionError(f"vLLM did not start:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
