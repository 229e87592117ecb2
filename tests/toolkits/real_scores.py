"""Write golden/real_files.json: what each toolkit makes of the published answer files.

    python -m tests.toolkits.real_scores lmms_eval | vlmevalkit | cambrian | llava

A toolkit's entries are replaced, the others' stay. ``right`` counts without guesses and judges; ``sum`` adds the scores
that are no counts. What a toolkit aggregates itself is in ``own``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from typing import Any

from tests.toolkits import golden, real_files, scores


def counted(module: Any, items: list[real_files.Item], name: str) -> dict[str, Any] | None:
    """Counts of a toolkit's verdicts on the items of one benchmark; None where it has no scorer for it."""
    scorer = module.SCORERS.get(name)
    chosen = [item for item in items if item.benchmark == name]
    if scorer is None or (module.ABOUT["toolkit"] == "VLMEvalKit" and name == "seed"):  # it needs the options' texts
        return None
    verdicts = Counter(scores.verdict(scorer, item.answer, item.gold) for item in chosen)
    numbers = {found: count for found, count in verdicts.items() if not isinstance(found, str)}
    signs = {"unread": verdicts["?"], "guessed": verdicts["g"], "errors": verdicts["x"]}
    found = {"rows": len(chosen), "right": numbers.get(1.0, 0)} | {key: count for key, count in signs.items() if count}
    if any(0 < score < 1 for score in numbers):
        found["sum"] = round(sum(score * count for score, count in numbers.items()), 4)
    return found


def main(toolkit: str) -> None:
    module = importlib.import_module(f"tests.toolkits.{toolkit}_scorers")
    path = golden.FOLDER / "real_files.json"
    content = json.loads(path.read_text()) if path.is_file() else {"made_by": {}, "files": {}}
    content["made_by"][toolkit] = module.ABOUT["version"]
    for file, load in real_files.FILES.items():
        items = load()
        entries = content["files"].setdefault(file, {})
        found: dict[str, Any] = {}
        for name in dict.fromkeys(item.benchmark for item in items):
            if (counts := counted(module, items, name)) is not None:
                found[name] = counts
        own = getattr(module, "aggregates", lambda name, items: None)(items[0].benchmark, items)
        entries.pop(toolkit, None)
        if found or own:
            entries[toolkit] = found | ({"own": own} if own else {})
        print(file, entries.get(toolkit))
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
