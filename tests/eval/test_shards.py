"""Several processes share the questions of a benchmark: none is asked twice, none is missing, whoever is killed."""

from __future__ import annotations

import threading

import pytest

from pivot_jax.eval import predictions, shards
from pivot_jax.eval.questions import RunOptions, choose
from pivot_jax.eval.run import evaluate, run_benchmark
from pivot_jax.eval.score import score_file
from tests.tiny import scripted


def test_parts_are_the_whole(toy, tmp_path):
    whole = choose("mmvp", ".", RunOptions())
    for parts in (2, 3, 5):
        own = [choose("mmvp", ".", RunOptions(shard=(part + 1, parts))).positions for part in range(parts)]
        assert sorted(one for part in own for one in part) == sorted(whole.positions)
    first, second = (choose("mmvp", ".", RunOptions(shard=(part, 2))).positions for part in (1, 2))
    assert [*first] == ["1", "2", "5", "6"] and [*second] == ["3", "4"]  # both questions of a pair


def test_the_last_one_has_all_answers(toy, tmp_path):
    out, asked = tmp_path / "p.jsonl", []
    for part in (3, 1, 2):
        answerer = scripted.Scripted(lambda e: "A")
        found = evaluate("mmvp", ".", answerer, out, RunOptions(shard=(part, 3)))
        asked += answerer.asked
        assert len(found.ids) == len(asked) and found.total == 6
    assert sorted(asked) == [*"123456"] and [row["question_id"] for row in predictions.read(out)] == [*"123456"]
    alone = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), tmp_path / "alone.jsonl")
    assert predictions.read(alone) == predictions.read(out)


def test_a_killed_part_resumes(toy, tmp_path):
    out = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        options = RunOptions(shard=(1, 2), chunk=1)
        run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A", fail_after=2), out, options)
    with shards.path_of(out, (1, 2)).open("a") as file:
        file.write('{"question_id": "5", "answ')
    run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), out, RunOptions(shard=(2, 2)))
    assert [row["question_id"] for row in predictions.read(out)] == ["1", "2", "3", "4"]
    again = scripted.Scripted(lambda e: "A")
    run_benchmark("mmvp", ".", again, out, RunOptions(shard=(1, 2)))
    assert again.asked == ["5", "6"] and len(score_file(out).ids) == 6


def test_parts_that_finish_at_once(toy, tmp_path):
    out = tmp_path / "p.jsonl"
    barrier = threading.Barrier(3)

    def answer(part):
        def wait(example):
            barrier.wait(timeout=60)  # all parts answer their only chunk together
            return "A"

        run_benchmark("mmvp", ".", scripted.Scripted(wait), out, RunOptions(shard=(part, 3), show=False))

    threads = [threading.Thread(target=answer, args=(part,)) for part in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["question_id"] for row in predictions.read(out)] == [*"123456"]
