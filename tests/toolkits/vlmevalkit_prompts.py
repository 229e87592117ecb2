"""Write golden/prompts_vlmevalkit.json: what VLMEvalKit asks about the rows of its TSV files.

The limit of tokens and stop strings are a model's there, not a data set's, so none is written.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.toolkits import golden, vlmevalkit

SKIPPED = {
    "geometry3k": "VLMEvalKit has no such data set",
    "geometry3k_choices": "VLMEvalKit has no such data set",
    "detailcaps": "VLMEvalKit has no such data set",
}


def prompts(name: str, folder: Path) -> dict[str, Any]:
    """Row position → the messages that the data set builds."""
    built = vlmevalkit.dataset(name, folder)
    found = {}
    for position in range(len(built)):
        messages = built.build_prompt(built.data.iloc[position])
        parts = [None if message["type"] == "image" else message["value"] for message in messages]
        found[str(position)] = golden.entry(golden.joined(parts), None)
    return found


def main(path: Path) -> None:
    about = vlmevalkit.open_package()
    with tempfile.TemporaryDirectory() as folder:
        benchmarks = {name: prompts(name, Path(folder)) for name in vlmevalkit.DATASETS}
    golden.write(path, about, benchmarks, SKIPPED)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else golden.FOLDER / "prompts_vlmevalkit.json")
