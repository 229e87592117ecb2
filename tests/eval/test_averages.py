"""Averages over benchmarks, against every average that the paper prints."""

from __future__ import annotations

import runpy

import pytest

from pivot_jax.eval import averages
from pivot_jax.eval.averages import GROUPS

ORDER = ("General", "OCR & Chart", "Vision-Centric", "Knowledge")  # of the columns of the paper's tables


def test_average_of_the_paper():
    means = averages.averages(
        {"mme": 1500.0, "gqa": 65.0, "mmvp": 50.0}, {"General": ["mme", "gqa"], "Vision-Centric": ["mmvp"]}
    )
    assert means == {"General": 70.0, "Vision-Centric": 50.0, "average": 60.0}
    with pytest.raises(ValueError, match="no result for mme, mmbench"):
        averages.averages({})
    assert averages.missing({"mme": 1500.0})[0] == "mmbench" and len(averages.missing({})) == 16


@pytest.mark.parametrize("table", ["Q", "R", "S", "M", "N", "O"])
def test_every_average_that_the_paper_prints(shared_data, table, capsys):
    rows = runpy.run_path(str(shared_data.parent / "reference" / "pivot_tables.py"))[table]
    capsys.readouterr()  # the file prints its own averages
    assert len(rows) >= 4
    names = [name for group in ORDER for name in GROUPS[group]]
    for model, (numbers, printed) in rows.items():
        scores = dict(zip(names, (number for group in "GOVK" for number in numbers[group]), strict=True))
        # 0.05 for the printed digit; the scores are rounded too, which moves two averages to 0.052
        assert averages.averages(scores)["average"] == pytest.approx(printed, abs=0.053), model
