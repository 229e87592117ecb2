"""The hand-over of weights: a Hugging Face folder that servers load, and the proof of which one they answer with."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.hub.shards import Shards
from pivot_jax.rollout.vllm.server import FIRST_PAUSE, Absent, Failed, Server

# Of all tensors, a server keeps these as they are in the file: it neither splits, fuses nor repacks them.
_KEPT = re.compile(r"layers\.\d+\.(input_layernorm|post_attention_layernorm)\.weight$")
_DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclass(frozen=True)
class Weights:
    """Weights in a folder.

    Attributes:
      folder: every server sees it under this path.
      label: the version that servers are given, and that each of their answers carries.
      architecture, vocabulary, width: of config.json: class name, rows and columns of the embedding.
      tied: the head is the embedding.
      kept: tensors that a server keeps unchanged, by name.
    """

    folder: Path
    label: str
    architecture: str
    vocabulary: int
    width: int
    tied: bool
    kept: dict[str, np.ndarray]

    def hashes(self, dtype: str) -> set[str]:
        """SHA-256 of :attr:`kept` in a server's dtype, such as "torch.bfloat16"."""
        kind = _DTYPES[dtype.removeprefix("torch.")]
        return {hashlib.sha256(np.ascontiguousarray(x.astype(kind)).tobytes()).hexdigest() for x in self.kept.values()}


def read(folder: Path, version: int) -> Weights:
    """The weights of an exported folder.

    Two exports never have the same label, even of the same version by two runs.
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = raw.get("text_config") or raw
    with Shards(folder) as shards:
        kept = {key: shards.whole(key) for key in shards.keys if _KEPT.search(key)}
        head = any(key.endswith("lm_head.weight") for key in shards.keys)
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    identity = repr([str(folder.resolve()), *((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats)])
    label = f"{version}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return Weights(
        folder=folder,
        label=label,
        architecture=raw["architectures"][0],
        vocabulary=text["vocab_size"],
        width=text["hidden_size"],
        tied=not head,
        kept=kept,
    )


def hand_over(server: Server, weights: Weights, dtype: str, *, checksums: bool) -> None:
    """Makes the server load the weights, and checks that it did.

    Requests in flight finish first. The caches of prompts, of preprocessed images and of image features are emptied:
    after new weights, a known image would otherwise end the server's engine or have the features of the old ones.

    Raises:
      UserError: the server cannot load the folder, or has other weights afterwards.
    """
    folder = weights.folder.resolve()
    server.post("/pause?mode=wait", {})
    try:
        request = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        server.post("/collective_rpc", request, repeat=False)
    except Failed as error:
        raise UserError(
            f"{error}. The server must see {folder} under the same path, with weights of the shapes that it has; it "
            "cannot answer before it is started again"
        ) from None
    _reset_prefix_cache(server)
    server.post("/reset_mm_cache", {})
    server.post("/reset_encoder_cache", {})
    server.post("/update_weight_version", {"new_version": weights.label})
    server.post("/resume", {})
    if checksums:
        check(server, weights, dtype)


def _reset_prefix_cache(server: Server) -> None:
    """Blocks of requests that were just aborted are freed a moment later."""
    deadline, pause = time.monotonic() + server.limits.patience_s, FIRST_PAUSE
    while not server.post("/reset_prefix_cache", {})["success"]:
        if time.monotonic() + pause > deadline:
            raise UserError(f"vLLM server {server.url} still uses its prefix cache; end the requests of other clients")
        time.sleep(pause)


def version(server: Server) -> str:
    """Label of the server's weights; "default" since its start, "" where it does not run in development mode."""
    try:
        return server.get("/weight_info")["weight_version"]
    except Absent:
        return ""


def check(server: Server, weights: Weights, dtype: str) -> None:
    """Raises UserError where the server's checksums are not those of the folder.

    Compared are the norms of the decoder's layers; see :data:`_KEPT`.
    """
    found = set(server.post("/weight_checker", {"action": "checksum"})["checksums"].values())
    if missing := weights.hashes(dtype) - found:
        raise UserError(
            f"vLLM server {server.url}: after loading {weights.folder}, {len(missing)} of {len(weights.kept)} tensors "
            "that it keeps unchanged have other checksums; look at its log, and start it again"
        )
