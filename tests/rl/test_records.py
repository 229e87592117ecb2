"""The stored update of a rollout, where another number of processes resumes it."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.rl.groups import Group
from pivot_jax.rl.records import Records, Stored
from pivot_jax.rollout.engine import Response

N = 2  # responses of a prompt


def group(number: int) -> Group:
    """Prompt ``number``; its responses have tokens and values by which a test knows them."""
    tokens = [np.arange(3 + number + i, dtype=np.int32) for i in range(N)]
    responses = tuple(Response(own, own / 10, own / 20, "stop" if len(own) % 2 else "length") for own in tokens)
    rewards = np.asarray([number, number + 0.5])
    return Group(number, f"example {number}", f"row {number}", responses, 7, rewards, {"count": rewards})


def stored(numbers: list[int], surplus: list[int]) -> Stored:
    groups = [group(number) for number in numbers]
    values = [np.full(len(one.tokens), 10 * g.number + i) for g in groups for i, one in enumerate(g.responses)]
    return Stored(groups, {"advantages": values}, [group(number) for number in surplus])


def prompt(number: int) -> tuple[str, str]:
    return f"example {number}", f"row {number}"


def same(found: Stored, wanted: Stored) -> None:
    for ours, theirs in ((found.groups, wanted.groups), (found.surplus, wanted.surplus)):
        assert [one.number for one in ours] == [one.number for one in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert (a.example, a.row, a.version) == (b.example, b.row, b.version)
            np.testing.assert_array_equal(a.total, b.total)
            for x, y in zip(a.responses, b.responses, strict=True):
                assert x.finish == y.finish
                np.testing.assert_array_equal(x.tokens, y.tokens)
                np.testing.assert_allclose(x.logps, y.logps)
    assert found.values.keys() == wanted.values.keys()
    for name, ours in found.values.items():
        for x, y in zip(ours, wanted.values[name], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (2, 4), (4, 2), (1, 4)])
def test_each_process_has_its_share(tmp_path, before, after):
    """Of eight prompts in the data's order, as in a rollout without a filter."""
    each = 8 // before
    for process in range(before):
        own = list(range(process * each, (process + 1) * each))
        Records(tmp_path, process, before).save(3, stored(own, [20 + number for number in own]))
    if after < before:  # a file of more processes that an earlier, killed run left does not count
        Records(tmp_path, before, before + 1).save(3, stored([99], []))
    for process in range(after):
        own = list(range(process * 8 // after, (process + 1) * 8 // after))
        found = Records(tmp_path, process, after).load(3, prompt)
        same(found, stored(own, [20 + number for number in own]))


def test_groups_that_a_filter_dropped_leave_the_last_process_with_fewer(tmp_path):
    for process, own in enumerate(([0, 1], [5])):
        Records(tmp_path, process, 2).save(0, stored(own, []))
    same(Records(tmp_path).load(0, prompt), stored([0, 1, 5], []))
    for process, own in enumerate(([0], [1], [5], [])):
        found = Records(tmp_path, process, 4).load(0, prompt)
        assert [one.number for one in found.groups] == own
        assert len(found.values["advantages"]) == N * len(own)


def test_a_missing_file_of_another_process_is_named(tmp_path):
    Records(tmp_path, 0, 2).save(0, stored([0], []))
    with pytest.raises(UserError, match=r"000000-1\.npz cannot be read"):
        Records(tmp_path).load(0, prompt)


def test_files_of_more_processes_go_with_the_others(tmp_path):
    for process in range(4):
        records = Records(tmp_path, process, 4)
        records.save(0, stored([process], []))
        records.write_completions(5, [])
    one = Records(tmp_path)
    one.write_completions(5, [])
    assert [path.name for path in (tmp_path / "completions").iterdir()] == ["000005.jsonl"]
    one.save(1, stored([0], []))
    one.forget(1)
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["000001.npz"]
