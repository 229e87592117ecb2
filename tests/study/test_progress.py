"""What the bar of a study reads from its files."""

from __future__ import annotations

import json

from pivot_jax.study import matrix
from pivot_jax.study.expand import expand
from pivot_jax.study.graph import result_file
from pivot_jax.study.progress import TRAINING, Progress
from tests.study import studies


def test_a_run_whose_checkpoint_is_gone_counts_from_the_start(tmp_path):
    """Its results are there already, and it is trained again for the run after it."""
    graph = expand(matrix.read(studies.write(tmp_path / "study", seeds=(0,))), tmp_path / "w")
    (job,) = [job for job in graph.jobs.values() if len(job.runs) == 2 and job.runs[1].startswith("stage1")]
    first, second = job.runs
    there = result_file(graph.root, first)
    there.parent.mkdir(parents=True)
    there.write_text("{}")
    progress = Progress(graph, [job])
    assert progress._state() == (0.0, "0 of 1 jobs")
    logged(graph.folder(first), 7)
    assert progress._state()[1] == f"0 of 1 jobs, {first} 7/10"
    (graph.folder(first) / "finished.json").write_text("{}")
    logged(graph.folder(second), 5)
    done, text = progress._state()
    assert text == f"0 of 1 jobs, {second} 5/10"
    at_first, at_second = (progress._minutes[key] for key in job.runs)
    assert abs(done - at_first - at_second * 0.5 * TRAINING / (TRAINING + 1)) < 1e-9


def test_a_run_counts_by_its_minutes(tmp_path):
    """A short run at the start of a long job is a small part of it."""
    graph = expand(matrix.read(studies.write(tmp_path / "study", seeds=(0,))), tmp_path / "w")
    (job,) = [job for job in graph.jobs.values() if len(job.runs) == 2 and job.runs[1].startswith("stage1")]
    progress = Progress(graph, [job])
    progress._minutes |= {job.runs[0]: 1.0, job.runs[1]: 99.0}
    logged(graph.folder(job.runs[0]), 10)
    assert progress._job(job)[:2] == (1.0, 100.0)


def logged(folder, step):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")
