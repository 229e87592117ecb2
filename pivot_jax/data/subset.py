"""A random subset of MMPR, written out once: the same rows for every arm, and a hash that says which.

DIR/pairs.jsonl   rows in MMPR's own format with an id, in random order: its first N rows are a smaller subset
DIR/about.json    source, seed, filter, number of rows, and two hashes
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.data.processing.images import describe
from pivot_jax.data.sources import read
from pivot_jax.errors import RowError, UserError
from pivot_jax.progress import progress

ROWS, ABOUT = "pairs.jsonl", "about.json"


def write_subset(
    meta: str | Path, out: Path, rows: int, seed: int = 0, rule: str = "", *, overwrite: bool = False
) -> dict[str, Any]:
    """Draws ``rows`` pairs of MMPR and writes them; returns the content of about.json.

    The same source, seed and filter give the same bytes. The images stay where they are; ``image_root`` in about.json
    is the folder that the rows' paths start at. ``content`` is a hash of questions, answers and the images' bytes,
    which does not depend on where the images are; ``sha256`` is that of pairs.jsonl.

    Args:
      meta: ``meta.json`` of MMPR, or one of its annotation files.
      rule: of ``choose.keep``, such as ``under30``.
      overwrite: replace an earlier subset.

    Raises:
      UserError: too few rows, a row that cannot be read, an image that is missing, or ``out`` holds other files.
    """
    files.check_folder(out, overwrite=overwrite)
    source = read(
        {"format": "mmpr", "path": str(meta), "filter": rule or None, "seed": seed, "sampling": f"random:{rows}"}
    )
    if len(source) < rows:
        kept = f" that '{rule}' keeps" if rule else ""
        raise UserError(f"--rows: {rows:,}, but {meta} has {len(source):,} rows{kept}")
    examples = []
    with progress(f"reading {source.name}", rows) as advance:
        for index in range(rows):
            try:
                examples.append(source[index])
            except RowError as error:
                raise UserError(f"{meta}: {error}; repair or remove the row") from None
            advance()
    folder = _common_folder([str(path) for one in examples for path in one.images])
    content, lines = hashlib.sha256(), []
    with progress("hashing images", rows) as advance:
        for one in examples:
            question = one.messages[-1].content
            images = [_digest(path, one.id) for path in one.images]
            content.update(json.dumps([question, one.chosen, one.rejected, images]).encode())
            paths = [os.path.relpath(str(path), folder) for path in one.images]
            row = {"id": one.id, "image": paths[0] if len(paths) == 1 else paths, "question": question,
                   "chosen": one.chosen, "rejected": one.rejected}  # fmt: skip
            lines.append(json.dumps({key: value for key, value in row.items() if value != []}, ensure_ascii=False))
            advance()
    text = "".join(f"{line}\n" for line in lines)
    about = {
        "source": str(meta),
        "seed": seed,
        "filter": rule,
        "rows": rows,
        "image_root": folder,
        "content": content.hexdigest(),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    with files.whole_folder(out, overwrite=overwrite) as new:
        (new / ROWS).write_text(text, encoding="utf-8")
        (new / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _common_folder(paths: list[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""


def _digest(path: Any, row_id: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"row {row_id}: {describe(path)}: {error.strerror}; download the images of its subset"
        ) from None
