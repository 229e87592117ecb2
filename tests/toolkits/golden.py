"""How the toolkits' outputs are written down: one JSON file a toolkit, the same bytes for the same outputs."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("PIVOT_SHARED_DATA", ROOT.parent / "shared" / "data"))  # published answer files
FOLDER = ROOT / "tests" / "eval" / "benchmarks" / "golden"
IMAGE = "<image>"


def joined(parts: Iterable[str | None]) -> str:
    """Texts and images (None) in order as one prompt: an image before any text stands on a line of its own."""
    prompt, text_seen = "", False
    for part in parts:
        if part is None:
            prompt += IMAGE if text_seen else f"{IMAGE}\n"
        else:
            prompt, text_seen = prompt + part, text_seen or part != ""
    return prompt


def entry(prompt: str, tokens: int | None, stop: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    """A prompt with its generation limits; ``tokens`` is None where the model class decides."""
    return {"prompt": prompt, "max_new_tokens": tokens, "stop": list(stop)} | more


def write(
    path: Path, about: Mapping[str, Any], benchmarks: Mapping[str, Any], skipped: Mapping[str, str], **more: Any
) -> None:
    """Write a golden file: what made it, what it could not make and why, then the benchmarks."""
    content = {"made_by": about, "skipped": dict(skipped), "benchmarks": dict(benchmarks)} | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(benchmarks)} benchmarks, {len(skipped)} skipped")


def answers(name: str) -> str:
    """The text of a published answer file, by its path below $PIVOT_SHARED_DATA."""
    return gzip.decompress((DATA / name).read_bytes()).decode("utf-8")
