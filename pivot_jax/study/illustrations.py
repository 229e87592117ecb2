"""The sections of a study's report that show single items: gradient maps, and answers to questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.processing.images import load
from pivot_jax.eval import predictions, statistics
from pivot_jax.eval.benchmarks import suite
from pivot_jax.probe import gradient_maps
from pivot_jax.report.content import Answer, Card, Cards, Column, Grid, Panel, Section, Table, Value
from pivot_jax.study.matrix import ARM
from pivot_jax.study.results import Results

SHOWN = 8  # questions, and maps
MAPS = "gradient_maps"  # kind of measurement


def maps(results: Results) -> Section | None:
    """Gradient maps: how well they cover the object in question, and some of them."""
    names = [name for name, one in results.study.measures.items() if one.get("kind", name) == MAPS]
    rows: list[tuple[str, tuple[Value, ...]]] = []
    shown: dict[str, tuple[Path, str]] = {}
    area = 0.0
    condition = results.conditions[0]
    for arm in results.arms(condition):
        cells = results.cells(condition, arm)
        for name in names:
            found = [results.measured(cell, ARM, name) for cell in cells]
            if not found or None in found:
                continue
            outcomes = [one for one in found if one is not None]
            area = float(outcomes[0].items["area"].mean())
            for loss in dict.fromkeys(key.partition(": ")[0] for key in outcomes[0].items if ": " in key):
                label = f"{loss.upper()} loss, {results.study.arms[arm].title}"
                scored = (
                    np.stack([one.items[f"{loss}: {m}"] for one in outcomes]) for m in ("hit", "energy", "entropy")
                )
                rows.append((label, tuple(statistics.over_seeds(one) for one in scored)))
                folder = results.graph.folder(cells[0].runs[results.study.arms[arm].stage])
                shown[label] = (folder / f"{name}.npz", loss)
    if not rows:
        return None
    rows.append(("uniform map (chance)", (area, area, 1.0)))
    columns = (
        Column("peak on the object", "%"),
        Column("energy on the object", "%"),
        Column("entropy", digits=2, note="1 is a uniform map"),
    )
    return Section(
        "Gradient maps",
        "The size of the loss's gradient with respect to each patch's features, for unseen pairs that ask about one "
        "object. Maps at Stage 1 only use the same weights and differ only in the loss.",
        (Table("Maps compared with the object in question", columns, tuple(rows), row_title="Map"), *_grid(shown)),
    )


def _grid(shown: Mapping[str, tuple[Path, str]]) -> list[Grid]:
    """Some of the maps, where the runs' folders are there."""
    kept = {}
    for label, (path, loss) in shown.items():
        if path.is_file():
            with np.load(path) as file:
                kept[label] = (file[loss], file["images"], file["texts"])
    if not kept:
        return []
    _, images, texts = next(iter(kept.values()))
    rows = tuple(
        (
            str(texts[i]),
            (
                Panel(images[i]),
                *(Panel(gradient_maps.overlay(_enlarged(images[i]), m[i], border=False)) for m, _, _ in kept.values()),
            ),
        )
        for i in range(min(SHOWN, len(images)))
    )
    return [Grid("Maps", ("image", *kept), rows, note="question, chosen / rejected answer")]


def _enlarged(image: np.ndarray, factor: int = 6) -> np.ndarray:
    return image.repeat(factor, 0).repeat(factor, 1)


def examples(results: Results) -> Section | None:
    """Answers of the arms to some test questions, where the runs' folders are there."""
    group = next(iter(results.study.endpoints.values()))
    asked = [(stage, measure) for stage, measure, _ in group.values() if _is_answers(results, measure)][:1]
    condition = results.conditions[0]
    answered: dict[str, list[dict[str, Any]]] = {}
    for arm in results.arms(condition):
        cell = results.cells(condition, arm)[0]
        for stage, measure in [("arm", asked[0][1]), *asked] if asked else []:
            key = cell.runs.get(results.study.arms[arm].stage if stage == ARM else stage)
            path = results.graph.folder(key) / "answers" / f"{measure}.jsonl" if key else None
            if path and path.is_file():
                about = results.study.arms[arm].title
                answered[about if stage == ARM else f"{stage}, {about}"] = predictions.read(path)
    if not answered:
        return None
    rows = next(iter(answered.values()))
    kinds = dict.fromkeys(row.get("category", "") for row in rows)
    picked = [k for kind in kinds for k, row in enumerate(rows) if row.get("category", "") == kind]
    questions = _questions(results, asked[0][1])
    cards = []
    for index in picked[:: max(1, len(picked) // SHOWN)][:SHOWN]:
        answers = tuple(
            Answer(name, found[index]["answer"], found[index]["answer"] == found[index]["gt_answer"])
            for name, found in answered.items()
        )
        question = rows[index]["prompt"].removeprefix("<image>\n")
        cards.append(Card(np.asarray(load(questions[index].images[0])), question, rows[index]["gt_answer"], answers))
    about = f"From seed {results.study.seeds[0]}, with every kind of question."
    return Section("Example answers", about, (Cards("Test questions", tuple(cards)),))


def _is_answers(results: Results, measure: str) -> bool:
    return results.study.measures[measure].get("kind", measure) == "answers"


def _questions(results: Results, measure: str) -> Any:
    """The examples of an ``answers`` measurement by index."""
    declared = results.study.measures[measure]
    path = str(declared["path"]).replace("{data}", str(results.graph.data))
    return suite.examples(declared["benchmark"], path)
