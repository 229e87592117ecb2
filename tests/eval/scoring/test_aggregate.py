"""Scores of whole benchmarks from single answers, against values by hand."""

from __future__ import annotations

import runpy

import pytest

from pivot_jax.eval.scoring import aggregate


def test_mmvp_pairs():
    scores = [1, 1, 1, 0, 0, 1, 0, 0]
    pairs = [0, 0, 1, 1, 2, 2, 3, 3]
    pair = aggregate.unit_accuracy(scores, pairs)
    assert pair.value == 0.25 and pair.n == 4
    assert pair.low <= 0.25 <= pair.high
    assert aggregate.accuracy(scores).value == 0.5


def test_mmbench_circular():
    # One question in four rotations, another in three: only the second is right in all.
    right = [1, 1, 0, 1, 1, 1, 1]
    assert aggregate.unit_accuracy(right, [10, 10, 10, 10, 11, 11, 11]).value == 0.5


def test_average_of_the_paper():
    means = aggregate.cambrian_average(
        {"mme_perception": 1500.0, "gqa": 65.0, "mmvp": 50.0},
        {"general": ["mme_perception", "gqa"], "vision": ["mmvp"]},
    )
    assert means == {"general": 70.0, "vision": 50.0, "average": 60.0}
    with pytest.raises(ValueError, match="no result for sqa"):
        aggregate.cambrian_average({}, {"knowledge": ["sqa"]})


GROUPS = {
    "G": ("mme_perception", "mmbench", "seed", "gqa"),
    "O": ("chartqa", "ocrbench", "textvqa", "docvqa"),
    "V": ("mmvp", "realworldqa", "cvbench_2d", "cvbench_3d"),
    "K": ("scienceqa", "mmmu", "mathvista", "ai2d"),
}


@pytest.mark.parametrize("table", ["Q", "R", "S", "M", "N", "O"])
def test_every_average_that_the_paper_prints(shared_data, table, capsys):
    rows = runpy.run_path(str(shared_data.parent / "reference" / "pivot_tables.py"))[table]
    capsys.readouterr()  # the file prints its own averages
    assert len(rows) >= 4
    for name, (numbers, printed) in rows.items():
        scores = dict(zip((n for g in GROUPS for n in GROUPS[g]), (x for g in GROUPS for x in numbers[g]), strict=True))
        # 0.05 for the printed digit; the scores are rounded too, which moves two averages to 0.052
        assert aggregate.cambrian_average(scores, GROUPS)["average"] == pytest.approx(printed, abs=0.053), name
