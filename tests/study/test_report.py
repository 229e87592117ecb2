"""The report of results that are written here: what it says of differences that are there, and of ones that are not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.study import across, matrix, report, run, sections, store
from pivot_jax.study.expand import expand
from pivot_jax.study.graph import result_file
from pivot_jax.study.results import Results
from pivot_jax.study.store import Outcome
from tests.study import studies

ACCURACY = {"stage1": 0.5, "sft": 0.5, "dpo": 0.7}
AT_ARM = ("arm", "answers", "accuracy")
ITEMS, SEEDS = 800, (0, 1, 2, 3)


@pytest.fixture
def graph(tmp_path):
    """A study whose runs are all finished, with answers of stage 3 that are right as often as ACCURACY says."""
    factors = {"size": ("small", "large")}
    controls = {"Stage 1": ("stage1", "answers", "accuracy")}
    published = {"Answers": {"stage 3": (({"size": "small", "arm": "dpo"}, 61.5),)}}
    spec = studies.write(tmp_path, factors=factors, seeds=SEEDS, controls=controls, published=published)
    found = expand(matrix.read(spec), tmp_path / "work")
    generator = np.random.default_rng(0)
    for cell in found.cells:
        for stage, key in cell.runs.items():
            one = found.runs[key]
            numbers = {
                "stage": stage, "steps": 10, "samples": 40, "seconds": 2.0, "flops": 1e9, "trained": [],
                "metrics": {"loss": 1.0, "perf/step_time_s": 1.0}, "curves": {"step": [1, 2], "loss": [2.0, 1.0]},
            }  # fmt: skip
            store.save(result_file(found.root, key), Outcome(numbers))
            for measured in one.measurements:
                share = ACCURACY[cell.levels["arm"]] if stage == "stage3" else 0.5
                items = {"accuracy": generator.random(ITEMS) < share}
                if measured.kind == "pairs":
                    items = {"pairs": generator.normal(0.1, 1, ITEMS).astype(np.float32)}
                store.save(result_file(found.root, measured.result), Outcome({"seconds": 1.0}, items))
    return found


def test_levels_without_an_effect_share_their_runs(graph):
    assert len(graph.cells) == 2 * 3 * 4 and len(Results(graph).conditions) == 2
    assert len([1 for one in graph.runs.values() if one.stage == "stage3"]) == 3 * 4


def test_the_summary_answers_in_three_sentences(graph):
    said = report.summary(Results(graph)).split("\n\n")
    assert len(said) == 2 and said[0].startswith("Size small: ")
    sentences = [one for one in said[0].split(". ") if one]
    assert len(sentences) == 3, sentences
    assert "Dpo" not in said[0] and "DPO is better than SFT by" in said[0]
    assert "DPO is better than Stage 1 only by" in said[0] and "1 of 2 arms do not clearly differ" in said[0]
    assert "to be found in four of five such studies" in said[0]


def test_the_summary_of_no_difference(graph, monkeypatch):
    for path in (graph.root / "results").glob("stage3*.answers*.json"):
        store.save(path, Outcome({}, {"accuracy": np.arange(ITEMS) % 2 == 0}))
    said = report.summary(Results(graph))
    assert "DPO does not clearly differ from SFT (the difference is 0.0 points)" in said
    assert "no arm clearly differs from Stage 1 only (each difference is 0.0 points)" in said


def test_differences_are_paired_and_corrected_over_the_table(graph):
    results = Results(graph)
    condition = results.conditions[0]
    endpoint = ("stage3", "answers", "accuracy")
    gaps, adjusted = sections.differences(results, condition, {"stage 3": endpoint})
    one, two = (results.items(condition, arm, endpoint) for arm in ("dpo", "sft"))
    assert one.shape == (4, ITEMS)
    assert gaps["DPO − SFT"]["stage 3"] == statistics.difference(one, two)
    raw = {name: row["stage 3"].p for name, row in gaps.items()}
    assert {name: row["stage 3"] for name, row in adjusted.items()} == pytest.approx(statistics.holm(raw))
    assert adjusted["DPO − SFT"]["stage 3"] < 0.01 < adjusted["SFT − Stage 1 only"]["stage 3"]


def test_one_seed_is_said_to_be_one(graph):
    alone = run.open_study(str(graph.study.file), graph.root, seeds=(0,))
    several, one = (report.build(Results(which)) for which in (graph, alone))
    assert "All of this is about one training seed." in one.summary and "one training seed" not in several.summary
    assert "One training seed" in one.scope[0] and "4 training seeds" in several.scope[0]


def test_what_some_seeds_have_is_a_mean_over_these(tmp_path):
    """The control of a stage that one seed has; arms with other seeds are not compared."""
    declared = studies.stages(
        stage1={"only": {"seed": ("1",)}}, dpo={"only": {"seed": ("0",)}, "measures": ("answers",)}
    )
    del declared["stage3"]  # it would need every seed's arm
    declared["sft"] |= {"init": {"": "run:{stage0}"}}
    declared["dpo"] |= {"init": {"": "run:{stage0}"}}
    arms = {"sft": ("sft", "+ SFT"), "dpo": ("dpo", "+ DPO")}
    controls = {"Stage 1": ("stage1", "answers", "accuracy")}
    spec = studies.write(tmp_path, stages=declared, arms=arms, controls=controls, endpoints={"A": {"a": AT_ARM}})
    found = expand(matrix.read(spec), tmp_path / "work")
    for one in found.runs.values():
        for measured in one.measurements:
            right = np.arange(10) < (3 if one.stage == "stage1" else 6)
            store.save(result_file(found.root, measured.result), Outcome({}, {"accuracy": right}))
    results = Results(found)
    (condition,) = results.conditions
    control = results.score(condition, "sft", controls["Stage 1"])
    assert (control.value, control.seeds) == (pytest.approx(0.3), 1)
    assert results.score(condition, "sft", AT_ARM).seeds == 2 and results.score(condition, "dpo", AT_ARM).seeds == 1
    assert results.gap(condition, "dpo", "sft", AT_ARM) is None
    assert "Stage 1" in str(sections.controls(results))


def test_the_page_holds_every_part_and_needs_results_only(graph):
    page = report.write_report(graph)
    text = page.read_text()
    for word in ("Answers: ", "Differences on the same items", "Controls", "Implicit rewards", "Training", "size small",
                 "Detectable differences and effect sizes", "stage 3 by size", "24 cells share"):  # fmt: skip
        assert word in text.replace("<h2>Answers", "Answers: "), word
    assert not (graph.root / "runs").exists()
    numbers = json.loads((graph.root / "results.json").read_text())
    assert not any("seconds" in one for one in numbers.values())
    assert all("perf/step_time_s" not in one.get("metrics", {}) for one in numbers.values())


def test_every_score_links_to_the_runs_behind_it_and_stands_beside_the_published_one(graph):
    built = report.build(Results(graph))
    table = next(block for one in built.sections for block in one.blocks if block.title.startswith("Scores"))
    assert [column.title for column in table.columns] == ["stage 3", "stage 3, published"]
    values = dict(table.rows)
    assert values["+ DPO"][1] == 0.615 and values["+ SFT"][1] is None
    runs = {block.title: block for block in built.sections[-1].blocks if getattr(block, "anchors", None)}
    assert len(runs) == 2
    behind = runs["Runs behind the numbers: size small"]
    assert set(table.sources.values()) == set(behind.anchors.values())
    names = [name for name, _ in behind.rows if name.startswith("+ DPO, seed 2")]
    assert names == [f"+ DPO, seed 2, {stage}" for stage in ("stage0", "stage1", "dpo", "stage3")]
    text = report.write_report(graph).read_text()
    for name in table.sources.values():
        assert f'href="#{name}"' in text and f'id="{name}"' in text
    key = dict(behind.rows)["+ DPO, seed 2, dpo"][0]
    assert f'href="runs/{key}/config.json"' in text


def test_a_declared_table_has_a_row_for_each_arm_and_condition(graph):
    results = Results(graph)
    assert across.declared(results) is None
    tables = {"Table 1: size": {"arm": ("sft", "dpo")}, "Table 2: small ones": {"size": ("small",)}}
    results.study = replace(results.study, tables=tables)
    first, second = across.declared(results).blocks
    assert [name for name, _ in first.rows] == ["size small: + SFT", "size small: + DPO",
                                                "size large: + SFT", "size large: + DPO"]  # fmt: skip
    assert [name for name, _ in second.rows] == ["Stage 1 only", "+ SFT", "+ DPO"]
    assert dict(first.rows)["size small: + DPO"][1] == 0.615  # the published one
    condition = results.conditions[1]
    assert dict(first.rows)["size large: + DPO"][0] == results.score(
        condition, "dpo", ("stage3", "answers", "accuracy")
    )


def test_a_curve_is_over_one_factor_with_the_others_fixed(tmp_path):
    factors = {"size": ("small", "large"), "data": ("few", "many")}
    graph = expand(matrix.read(studies.write(tmp_path, factors=factors)), tmp_path / "work")
    rng = np.random.default_rng(0)
    for one in graph.runs.values():
        for measured in one.measurements:
            items = {"accuracy": rng.random(50) < 0.5, "pairs": rng.normal(size=50).astype(np.float32)}
            store.save(result_file(graph.root, measured.result), Outcome({}, items))
    titles = [figure.title for figure in across.curves(Results(graph), "Answers")]
    assert titles == ["stage 3 by size: data few", "stage 3 by size: data many",
                      "stage 3 by data: size small", "stage 3 by data: size large"]  # fmt: skip


def test_an_unknown_metric_is_named(graph):
    with pytest.raises(UserError, match=r"measure 'answers' has no metric 'acc' \(it has: accuracy\)"):
        Results(graph).items(Results(graph).conditions[0], "sft", ("stage3", "answers", "acc"))


def test_a_report_of_nothing_says_so(tmp_path):
    with pytest.raises(UserError, match="no run of .* is finished there"):
        run.report(studies.write(tmp_path), tmp_path / "work")


def test_cost_grows_with_distinct_runs_and_not_with_cells(graph):
    from pivot_jax.study.overview import overview

    found = overview(graph, graph.needed())
    assert "24 cells need 28 training runs" in found.lines[0]


@pytest.mark.parametrize("s", [2, 3, 5])
def test_p_is_below_five_percent_exactly_where_the_interval_excludes_zero(s):
    generator = np.random.default_rng(s)
    agree = []
    for _ in range(60):
        gap = generator.normal(generator.choice([0, 0.05, 0.2]), 0.03, (s, 1)) + generator.normal(0, 0.4, (s, 200))
        found = statistics.difference(gap, np.zeros_like(gap))
        agree.append(found.excludes_zero == (found.p < 0.05))
    assert np.mean(agree) > 0.98
