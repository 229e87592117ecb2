"""Rewards under attack: hostile completions, and functions that hang, die, fork or fill the memory.

One completion of a batch is bad each time. The others keep their scores, the bad one is counted under the reward's name
and the kind of failure, and the batch takes little longer than the time limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax.rl.rewards import pool as pools
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.composition import Penalty, Rewards
from pivot_jax.rl.rewards.function import read_rewards
from pivot_jax.rl.rewards.pool import Pool

ATTACKS = Path(__file__).parent / "attacks.py"
SLOW = r"\boxed{" + "(" * 900 + ")" * 900 + "}"  # the parser takes minutes
SLACK = 10.0  # seconds for a machine that is busy with other tests


def build(name: str, limit: float = 1.0, memory_mib: int = 512, **options) -> Rewards:
    name = name if name in ("math", "maye_math", "choice") else f"{ATTACKS}:{name}"
    rewards = read_rewards(({"name": name, **options},), limit)
    return Rewards(rewards, Pool(rewards, 2, memory_mib), "skip", Penalty())


def items(texts, answer="20"):
    return [Completion(f"row{i}", "", words, np.arange(3), False, {"answer": answer}) for i, words in enumerate(texts)]


def score(built: Rewards, texts: list[str], answer: str = "20"):
    start = time.monotonic()
    scores = built.score(items(texts, answer))
    return scores, time.monotonic() - start


@pytest.mark.parametrize(
    ("name", "bad", "kind", "limit", "message"),
    [
        ("hangs", "sleep", "timeout", 1.0, "took longer than 1 s"),
        ("spins", "a" * 60 + "c", "timeout", 1.0, "took longer than 1 s"),
        ("raises", "bad", "error", 9.0, "KeyError: 'bad'"),
        ("allocates", "big", "memory", 9.0, "MemoryError"),
        ("grows", "big", "memory", 60.0, "used more than 512 MiB of memory"),
        ("dies", "die", "error", 9.0, "its process ended unexpectedly (killed by signal 11)"),
        ("miscounts", "short", "count", 9.0, "returned 0 rewards for 1 completion"),
        ("fork_bomb", "fork", "error", 9.0, "started more than 64 processes"),
    ],
)
def test_one_bad_completion(name, bad, kind, limit, message):
    with build(name, limit) as built:
        scores, seconds = score(built, ["aab", bad, "aaab", "ab"])
        again, _ = score(built, ["ab"] * 3)
    assert [tuple(one) for one in scores.failures] == [("row1", name, kind, message)]
    assert scores.counts == {f"{name}/{kind}": 1}
    np.testing.assert_array_equal(scores.total, [1, np.nan, 1, 1])
    np.testing.assert_array_equal(again.total, [1, 1, 1])  # the workers are fit for the next batch
    assert seconds < 2 * limit + SLACK  # the whole batch, and the bad completion alone


def test_one_value_for_a_whole_batch_is_no_reward():
    """Called with each completion alone it returns the right number, which must not hide the mistake."""
    with build("one_for_all") as built:
        scores, _ = score(built, ["a", "b", "c"])
        alone, _ = score(built, ["a"])
    assert scores.counts == {"one_for_all/count": 3}
    assert {one.message for one in scores.failures} == {"returned 1 reward for 3 completions"}
    np.testing.assert_array_equal(scores.total, [np.nan] * 3)
    np.testing.assert_array_equal(alone.total, [1.0])


def test_wrong_values():
    with build("returns") as built:
        scores, _ = score(built, ["one", "nan", "none", "inf", "text", "true"])
    np.testing.assert_array_equal(scores.total, [1, np.nan, np.nan, np.nan, np.nan, 1])
    assert scores.counts == {"returns/nan": 2, "returns/error": 1}
    assert [one.row_id for one in scores.failures] == ["row1", "row3", "row4"]


def test_forked_processes_die(tmp_path):
    """Those that left the process group too. A fork that returns from the reward does no harm."""
    note = tmp_path / "pid"
    with build("forks_and_leaves", 20.0, pid_file=str(note)) as built:
        scores, _ = score(built, ["a", "fork", "b"])
    assert scores.counts == {"forks_and_leaves/error": 1}
    assert scores.failures[0].message == "ended 1 process that it left running"
    np.testing.assert_array_equal(scores.total, [1, np.nan, 1])
    for pid in note.read_text().split():
        assert not Path(f"/proc/{pid}").exists()
    with build("forks_and_returns", 20.0) as built:
        scores, _ = score(built, ["a", "b"])
    np.testing.assert_array_equal(scores.total, [1, 1])
    assert not scores.counts


def hostile(target: Path) -> dict[str, str]:
    code = f"__import__('os').system('touch {target}')"
    return {
        "deep fractions": r"\boxed{" + r"\frac{1}{" * 300 + "2" + "}" * 300 + "}",
        "deep brackets": r"\boxed{" + "(" * 900 + ")" * 900 + "}",
        "deep braces": r"\boxed{" + "{" * 990 + "}" * 990 + "}",
        "open braces": "{" * 1_000_000,
        "open boxes": r"\boxed{" * 100_000,
        "tower": r"\boxed{10^{10^{10}}}",
        "taller tower": r"\boxed{9^{9^{9^{9}}}-1}",
        "long number": r"\boxed{" + "9" * 1_000_000 + "}",
        "nul": "\0\\boxed{2\0 0}\0",
        "code": rf"\boxed{{{code}}}",
        "code in text": rf"\boxed{{\text{{{code}}}}}",
        "code in dollars": rf"${code}$ \boxed{{x}}",
        "expansion": r"\boxed{(x+1)^{100000}}",
        "integral": r"\boxed{\int_0^1 e^{e^{e^x}} dx}",
        "sum": r"\boxed{\sum_{n=1}^{10^{9}} \frac{1}{n^{n}}}",
        "factorial": r"\boxed{1000000!}",
        "spaces": "answer" + " " * 1_000_000,
    }


@pytest.mark.parametrize("name", ["math", "maye_math"])
def test_hostile_completions(name, tmp_path):
    """None is right, none costs another completion its score, and no code is run; hangs are counted by name."""
    target, limit = tmp_path / "touched", 2.0
    texts = hostile(target)
    long = "x " * 500_000 + r"\boxed{\frac{40}{2}}"
    with build(name, limit, column="answer") as built:
        scores, seconds = score(built, [long, *texts.values(), r"\boxed{20}"], r"\boxed{20}")
    values = scores.rewards[name]
    assert values[0] == values[-1] == 1.0
    failed = {list(texts)[int(one.row_id[3:]) - 1] for one in scores.failures}
    for label, value in zip(texts, values[1:-1], strict=True):
        assert label in failed or value == 0.0, label
    assert set(scores.counts) <= {f"{name}/timeout", f"{name}/memory", f"{name}/error"}
    assert not target.exists()
    assert seconds < 2 * limit + SLACK


def test_many_hangs_at_once():
    """Completions that hang are waited for side by side, by substitutes; the others of their jobs do not wait."""
    texts = [r"\boxed{20}" if i % 8 else SLOW for i in range(64)]
    with build("math", 2.0) as built:
        scores, seconds = score(built, texts)
    assert scores.counts == {"math/timeout": 8}
    assert np.nansum(scores.total) == 56
    assert seconds < 8 * 2.0


def test_interrupted_batch_closes_the_pool(monkeypatch):
    with build("hangs", 60.0) as built:

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(Pool, "_enforce", interrupt)
        with pytest.raises(KeyboardInterrupt):
            score(built, ["sleep"])
        with pytest.raises(ValueError, match="closed"):
            score(built, ["ok"])


def test_worker_is_replaced_after_many_completions(monkeypatch):
    monkeypatch.setattr(pools, "RECYCLE", 10)
    with build("batch_size") as built:
        first = {worker.pid for worker in built._pool._workers}
        for _ in range(4):
            scores, _ = score(built, ["a"] * 10)
            np.testing.assert_array_equal(scores.total, 10)
        assert not first & {worker.pid for worker in built._pool._workers}


def test_nothing_outlives_the_trainer(tmp_path):
    """kill -9 of the trainer in the middle of a reward that sleeps."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.rl.rewards.test_attacks import build, items
built = build("hangs", 600.0)
print(*[worker.pid for worker in built._pool._workers], flush=True)
built.score(items(["sleep"]))
"""
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    pids = list(map(int, trainer.stdout.readline().split()))
    pids.append(int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]))  # the launcher
    assert len(pids) == 3 and all(Path(f"/proc/{pid}").exists() for pid in pids)
    time.sleep(0.3)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    until = time.monotonic() + SLACK
    while any(running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if running(pid)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
