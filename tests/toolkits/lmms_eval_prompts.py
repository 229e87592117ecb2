"""Write golden/prompts_lmms_eval.json: what lmms-eval asks about the rows of ``published_rows``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.toolkits import golden, lmms_eval_tasks


def prompts(name: str, folder: Path, skipped: dict[str, str]) -> dict[str, Any]:
    """Row position → what a chat model gets, and under ``bare`` the text without the task's own suffixes."""
    task = lmms_eval_tasks.task(name, folder)
    limits = task.config.generation_kwargs or {}
    sampled = {key: limits[key] for key in ("temperature", "top_p") if limits.get("temperature")}
    found = {}
    for position, row in enumerate(task.test_docs()):
        parts = [part for message in task.doc_to_messages(row) for part in message["content"]]
        prompt = golden.joined(part["text"] if part["type"] == "text" else None for part in parts)
        text = task.doc_to_text(row)
        more = sampled if prompt.endswith(text) else sampled | {"text": text}
        try:
            bare = task.config.doc_to_text(row, None)
        except (TypeError, AttributeError, NameError) as error:
            bare = None
            skipped[f"{name}, bare"] = f"the task's function needs its settings ({type(error).__name__}: {error})"
        if bare is not None and bare != text:
            more = more | {"bare": bare}
        found[str(position)] = golden.entry(prompt, limits.get("max_new_tokens"), limits.get("until") or (), **more)
    return found


def main(path: Path) -> None:
    benchmarks: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in lmms_eval_tasks.TASKS:
            try:
                benchmarks[name] = prompts(name, Path(folder), skipped)
            except ImportError as error:
                skipped[name] = f"{type(error).__name__}: {error}"
    golden.write(path, lmms_eval_tasks.ABOUT, benchmarks, skipped)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else golden.FOLDER / "prompts_lmms_eval.json")
