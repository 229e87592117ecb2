"""The toy of distribution shift: what SFT on long, tagged answers loses is their format more than sight."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pivot_jax.config import catalogue
from pivot_jax.data import sources
from pivot_jax.data.sources.choose import has_tags
from pivot_jax.study import data, run
from pivot_jax.study.results import Results

PAIRS = 400


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """One seed of configs/study/shift.py with fewer pairs."""
    folder = tmp_path_factory.mktemp("shift")
    for name in ("demo", "study"):
        shutil.copytree(catalogue.folder() / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "demo" / "study.py"
    text = path.read_text().replace('"seeds": (0, 1)', '"seeds": (0,)')
    path.write_text(text.replace('"preference": 1200', f'"preference": {2 * PAIRS}'))
    return run.open_study(str(folder / "study" / "shift.py"), tmp_path_factory.mktemp("runs"))


@pytest.mark.heavy
def test_the_shares_of_reasoned_pairs_are_exact_and_both_arms_have_the_same_rows(graph):
    data.prepare(graph.study.data, graph.data)
    shares = {}
    for cell in graph.cells:
        if (stage := cell.levels["arm"]) != "stage1":
            (entry,) = graph.runs[cell.runs[stage]].config["data"]["sources"]
            source = sources.read(entry)
            rows = [source[i] for i in range(len(source))]
            assert len(rows) == PAIRS
            shares[stage, cell.levels["reasoned"]] = sum(has_tags(row.chosen) for row in rows) / PAIRS
    assert shares == {(arm, f"{share}%"): share / 100 for arm in ("sft", "dpo") for share in (0, 50, 80)}


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_sft_on_reasoned_pairs_loses_the_format(graph, tmp_path):
    run.run(str(graph.study.file), tmp_path)
    results = Results(run.open_study(str(graph.study.file), tmp_path))
    scores = {
        (dict(condition)["reasoned"], arm, way): float(
            np.mean(results.items(condition, arm, ("arm", "answers", metric)))
        )
        for condition in results.conditions
        for arm in ("stage1", "sft", "dpo")
        for way, metric in (("written", "accuracy"), ("ranked", "ranked"))
    }
    print(scores)
    lost = {way: scores["0%", "sft", way] - scores["80%", "sft", way] for way in ("written", "ranked")}
    assert lost["written"] > lost["ranked"] + 0.1
