"""Answers to other prompts, for KTO."""

from __future__ import annotations

import pytest

from pivot_jax.data.sources import read
from pivot_jax.data.sources.mismatched import Mismatched
from pivot_jax.errors import RowError, UserError
from tests.data.conftest import write_jsonl


def source(count: int, **last):
    rows = [{"id": str(i), "prompt": f"q{i}", "completion": f"a{i}", "label": i % 2} for i in range(count)]
    return read({"format": "trl", "path": [*rows[:-1], rows[-1] | last]})


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_row_gets_the_answer_of_another_one_and_every_answer_is_used_once(count):
    rows = [Mismatched(source(count), seed=3)[i] for i in range(count)]
    found = [int(row.mismatched[1:]) for row in rows]
    assert sorted(found) == list(range(count)) and all(other != i for i, other in enumerate(found))
    assert [row.chosen or row.rejected for row in rows] == [f"a{i}" for i in range(count)]


def test_the_order_is_that_of_the_seed(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": True} for i in range(50)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)

    def answers(seed):
        view = Mismatched(read({"format": "trl", "path": path}), seed)
        return view.fingerprint, [view[i].mismatched for i in range(50)]

    assert answers(1) == answers(1)
    assert answers(1)[0] != answers(2)[0] and answers(1)[1] != answers(2)[1]


def test_of_a_pair_it_is_the_chosen_answer():
    pairs = [{"prompt": f"q{i}", "chosen": f"good{i}", "rejected": f"bad{i}"} for i in range(2)]
    assert Mismatched(read({"format": "trl", "path": pairs}), 0)[0].mismatched == "good1"


def test_errors_name_both_rows():
    with pytest.raises(UserError, match="KTO needs the answer to another prompt, so at least 2 rows"):
        Mismatched(source(1), 0)
    broken = Mismatched(source(2, label="yes"), 0)
    with pytest.raises(RowError, match="row '0'.*its mismatched answer comes from is bad: row '1': label 'yes'"):
        broken[0]
    prompt = Mismatched(source(2, completion=None), 0)
    with pytest.raises(RowError, match="row '1', which its mismatched answer comes from, has no answer"):
        prompt[0]
