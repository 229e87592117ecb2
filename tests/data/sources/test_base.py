"""Where a row comes from, through all that chooses and changes rows."""

from __future__ import annotations

import numpy as np

from pivot_jax.data.sources.base import Joined, Selected, origin
from pivot_jax.data.sources.mismatched import Mismatched
from pivot_jax.data.sources.prompts import prompts
from pivot_jax.data.sources.trl import trl
from tests.data.conftest import write_jsonl


def test_the_origin_of_a_row(tmp_path):
    one, other = (
        trl(write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{i}", "completion": "a"} for i in range(5)]))
        for name in ("one", "other")
    )
    some = Selected(other, np.asarray([4, 1]), "some")
    source = prompts(Selected(Joined([one, Joined([some, one])]), np.asarray([6, 2, 5, 11]), "chosen"))
    assert [origin(source, i) for i in range(4)] == [
        ("other.jsonl", 1), ("one.jsonl", 2), ("other.jsonl", 4), ("one.jsonl", 4)
    ]  # fmt: skip
    assert [source[i].messages[0].content for i in range(4)] == ["other1", "one2", "other4", "one4"]
    mismatched = Mismatched(Joined([one, other]), seed=0)
    assert len(mismatched) == 10 and origin(mismatched, 7) == ("other.jsonl", 2)
