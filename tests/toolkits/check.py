"""Compare golden files with ones that were made again: python -m tests.toolkits.check GOLDEN MADE TOOLKIT.

Exits with 1 where the same version of a toolkit gave something else. Another version may differ, which is shown only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The places where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys((*old, *new))
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{where}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for at, (one, other) in pairs for found in differences(one, other, f"{where}/{at}")]
    return [] if old == new else [f"{where}: golden {old!r}, now {new!r}"]


def compare(golden: Path, made: Path, name: str, toolkit: str) -> int:
    """Prints the differences of one file; returns 1 where the version is the same."""
    old, new = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for folder in (golden, made))
    found = differences(old, new)
    versions = [content.get("made_by", {}).get(toolkit, content.get("made_by")) for content in (old, new)]
    same = versions[0] == versions[1]
    print(f"{name}: {len(found)} differences" + ("" if same else f" (golden by {versions[0]}, now {versions[1]})"))
    for line in found[:10]:
        print(f"  {line[:300]}")
    return int(same and bool(found))


def main(golden: Path, made: Path, toolkit: str) -> None:
    names = (f"prompts_{toolkit}", f"scores_{toolkit}", "odd_answers", "real_files")
    raise SystemExit(max(compare(golden, made, name, toolkit) for name in names))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
