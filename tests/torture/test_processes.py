"""Runs of 2 and 4 processes of which one is killed, stopped, full or 10 minutes off: `make torture`.

Nobody but themselves ends the other processes: they are started without a launcher.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.parallel.peers import GRACE_S
from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import read
from tests.rl.test_rl_processes import sampled
from tests.tiny.processes import Processes, completed
from tests.torture.conftest import same

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]
SILENT_S = 15.0  # train.peer_timeout_s of these runs
# From the failure to the end of all processes. Of a stopped one the limit counts, of the others what parallel/peers.py
# waits; the rest is for a machine that does something else too.
LIMIT_S = SILENT_S + GRACE_S + 15
TIMES = {2: int(os.environ.get("PIVOT_TORTURE_TIMES", "8")), 4: int(os.environ.get("PIVOT_TORTURE_TIMES", "8")) // 2}
AGAIN = "the run resumes from its newest checkpoint"
STEPS = 60
# In process 0, for which the others wait: a signal is agreed on within a second or two, in which such a run would end.
SLOW = """
import time
from pivot_jax.train.session import Session
record = Session.record
def slow(self, *arguments):
    time.sleep(0.1)
    record(self, *arguments)
Session.record = slow
"""


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """Function (config, processes) → the workdir of the run that nothing stopped; made once for each."""
    folder, made = tmp_path_factory.mktemp("wholes"), {}

    def whole(config, count):
        key = (config.name, count)
        if key not in made:
            made[key] = completed(config, folder / f"{config.name}-{count}", count)
        return made[key]

    return whole


@pytest.fixture
def tortured(config_of):
    """Function (kind, overrides) → a config whose every second step saves."""

    def make(kind="sft", **changes):
        own = dict(name=kind, train__steps=STEPS, train__checkpoint_every=2, train__peer_timeout_s=SILENT_S)
        return config_of(kind, **own | changes)

    return make


def others_end(run: Processes, victims: tuple[int, ...], since: float, said: str) -> float:
    """The longest delay until all other processes have ended, with a failure and ``said`` in their last line."""
    others = [number for number in range(run.count) if number not in victims]
    assert 0 not in run.ended(others, LIMIT_S), run.said()
    delay = time.monotonic() - since
    for number in others:
        line = run.last_line(number)
        assert said in line and line.count("process") > 0, run.said()
        assert "Traceback" not in run.logs[number].read_text(errors="replace"), run.said()
    return delay


@pytest.mark.parametrize("count", [2, 4])
def test_kill_of_any_process(tortured, wholes, note, tmp_path, count):
    """SIGKILL in a chain, of each process in turn, at any time after a step and so inside saves too."""
    config, draw = tortured(), random.Random(count)
    run_at, delays = tmp_path / "run", []
    steps = sorted(draw.sample(range(3, STEPS - 6), TIMES[count]))
    for index, at in enumerate(steps):
        victim = index % count
        with Processes(config, run_at, count) as run:
            run.reach(at)
            time.sleep(draw.uniform(0, 0.1))
            since = run.send(victim, signal.SIGKILL)
            delays.append(others_end(run, (victim,), since, AGAIN))
            assert run.ended([victim]) == [-signal.SIGKILL], "it was over before it could be killed; make it longer"
    completed(config, run_at, count)
    same(run_at, wholes(config, count))
    outcome = "all others end, one line; resumed to the same bits"
    note(f"kill -9 of one of {count} processes", "sft", len(delays), outcome, max(delays))


# Runs in the process that is killed, before its command.
INSIDE = """
import os, signal
from pathlib import Path
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
def patched(owner, name, when, after):
    old = getattr(owner, name)
    def new(*a, **k):
        if not after and when(*a): die()
        found = old(*a, **k)
        if after and when(*a): die()
        return found
    setattr(owner, name, new)
"""
MOMENTS = {
    "its arrays are copied": (
        1,
        "import orbax.checkpoint as ocp\n"
        "patched(ocp.CheckpointManager, 'save', lambda self, step, *a: step == 8, after=True)",
    ),
    "all is written but the rename": (
        0,
        "patched(os, 'rename', lambda old, new: os.path.basename(new) == '8', after=False)\n"
        "patched(Path, 'rename', lambda old, new: os.path.basename(new) == '8', after=False)",
    ),
    "it was renamed": (
        0,
        "patched(os, 'rename', lambda old, new: os.path.basename(new) == '8', after=True)\n"
        "patched(Path, 'rename', lambda old, new: os.path.basename(new) == '8', after=True)",
    ),
}


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_kill_inside_a_save(tortured, wholes, note, tmp_path, moment):
    config, (victim, code) = tortured(), MOMENTS[moment]
    run_at = tmp_path / "run"
    with Processes(config, run_at, 2, code={victim: INSIDE + code}) as run:
        assert run.ended([victim]) == [-signal.SIGKILL], run.said()
        delay = others_end(run, (victim,), time.monotonic(), AGAIN)
    # Its part may be written before it dies; then process 0 completes the checkpoint.
    newest = {"its arrays are copied": (6, 8), "all is written but the rename": (6,), "it was renamed": (8,)}[moment]
    assert checkpoint.newest(run_at) in newest
    completed(config, run_at, 2)
    same(run_at, wholes(config, 2))
    outcome = "the other ends, one line; resumed to the same bits"
    note(f"kill -9 of a process in a save, when {moment}", "sft, 2 processes", 1, outcome, delay)


@pytest.mark.parametrize("count", [2, 4])
def test_signal_to_one_process(tortured, wholes, note, tmp_path, count):
    """Preemption of one: all save after the same step, and each says so."""
    config, run_at, delays = tortured(train__checkpoint_every=1000, train__steps=4 * STEPS), tmp_path / "run", []
    config.name = f"signals-{count}"
    cases = [(1, signal.SIGTERM), (0, signal.SIGTERM), (1, signal.SIGHUP), (0, signal.SIGINT)]
    for victim, number in cases if count == 2 else cases[:2]:
        at = 3 + (checkpoint.newest(run_at) if checkpoint.complete(run_at) else 0)
        with Processes(config, run_at, count, code={0: SLOW}) as run:
            run.reach(at)
            since = run.send(victim, number)
            codes = run.ended(limit=LIMIT_S)
            delays.append(time.monotonic() - since)
            stopped = {run.last_line(process) for process in range(count)}
        expected = [128 + signal.SIGTERM] * count
        expected[victim] = 128 + number
        assert codes == expected, run.said()
        step = checkpoint.newest(run_at)
        assert at <= step < 4 * STEPS and len(stopped) == 1, run.said()
        assert f"stopped at step {step}; checkpoint saved" in stopped.pop()
    completed(config, run_at, count)
    same(run_at, wholes(config, count))
    outcome = "all save after the same step; resumed to the same bits"
    note(f"SIGTERM, SIGHUP or SIGINT to one of {count} processes", "sft", len(delays), outcome, max(delays))


@pytest.mark.parametrize(("count", "victim"), [(2, 1), (2, 0), (4, 2)])
def test_stopped_process(tortured, wholes, note, tmp_path, count, victim):
    """SIGSTOP stands for a machine that hangs. When it is back, it finds that the run is over."""
    config, run_at = tortured(), tmp_path / "run"
    with Processes(config, run_at, count) as run:
        run.reach(9)
        since = run.send(victim, signal.SIGSTOP)
        delay = others_end(run, (victim,), since, f"process {victim} of {count}")
        assert delay >= SILENT_S - 1
        run.send(victim, signal.SIGCONT)
        assert run.ended([victim], LIMIT_S) != [0], run.said()
        assert AGAIN in run.last_line(victim), run.said()
    completed(config, run_at, count)
    same(run_at, wholes(config, count))
    outcome = f"the others end after {SILENT_S:.0f} s (train.peer_timeout_s), one line; resumed to the same bits"
    note(f"SIGSTOP of process {victim} of {count}", "sft", 1, outcome, delay)


FULL = """
import resource, signal
from pivot_jax.train.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = Checkpoints.save
def limited(self, step, *a, **k):
    if step >= 8:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
    save(self, step, *a, **k)
Checkpoints.save = limited
"""


@pytest.mark.parametrize(("count", "victim"), [(2, 1), (2, 0), (4, 3)])
def test_full_disk_of_one_process(tortured, wholes, note, tmp_path, count, victim):
    config, run_at = tortured(parallel__data=1, parallel__fsdp=count), tmp_path / "run"
    config.name = f"full-{count}"
    with Processes(config, run_at, count, code={victim: FULL}) as run:
        run.reach(8)
        since = time.monotonic()
        assert run.ended([victim], LIMIT_S) == [1], run.said()
        said = "could not be written"
        delay = others_end(run, (victim,), since, said)
        assert said in run.last_line(victim), run.said()
        others = [run.last_line(number) for number in range(count) if number != victim]
        assert all(f"process {victim} of {count}: " in line for line in others), run.said()
    assert checkpoint.newest(run_at) == 6
    completed(config, run_at, count)
    same(run_at, wholes(config, count))
    outcome = "it says so with the fix, the others with its number; resumed to the same bits"
    note(f"full disk on process {victim} of {count}", "sft", 1, outcome, delay)


CLOCK = """
import datetime, time
own, own_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: own() + {0}, lambda: own_ns() + {0} * 10**9
"""


@pytest.mark.parametrize("seconds", [600, -600])
def test_clock_of_one_process(tortured, wholes, note, tmp_path, seconds):
    """libfaketime, where it is installed, also moves the clock of JAX, Orbax and the kernel's time stamps."""
    faketime = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    more = {"LD_PRELOAD": str(faketime), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    how = dict(more={1: more}, code={0: SLOW}) if faketime else dict(code={0: SLOW, 1: CLOCK.format(seconds)})
    config, run_at = tortured(), tmp_path / "run"
    with Processes(config, run_at, 2, **how) as run:
        run.reach(9)
        since = run.send(1, signal.SIGTERM)
        assert run.ended(limit=LIMIT_S) == [143, 143], run.said()
        delay = time.monotonic() - since
    with Processes(config, run_at, 2, **how) as run:
        run.reach(checkpoint.newest(run_at) + 3)
        others_end(run, (1,), run.send(1, signal.SIGKILL), AGAIN)
    completed(config, run_at, 2, **how)
    same(run_at, wholes(config, 2))
    by = "the whole process, libfaketime" if faketime else "Python's clock"
    outcome = "no effect: a signal, a kill -9 and resuming end as ever, with the same bits"
    note(f"clock {seconds:+d} s in process 1 of 2 ({by})", "sft", 1, outcome, delay)


def test_kill_before_the_first_step(tortured, wholes, note, tmp_path):
    """Nothing is saved yet. The other one, which may be inside a compilation, ends by the limit of silence."""
    config, run_at, delays = tortured(), tmp_path / "run", []
    for victim, begun in ((1, ".lock"), (0, "config.json"), (1, "trained_parameters.json"), (0, "metrics.jsonl")):
        with Processes(config, run_at, 2) as run:
            end = time.monotonic() + 300
            while not (run_at / begun).exists() and time.monotonic() < end:
                time.sleep(0.005)
            delays.append(others_end(run, (victim,), run.send(victim, signal.SIGKILL), AGAIN))
        assert not checkpoint.complete(run_at)
        shutil.rmtree(run_at)
    completed(config, run_at, 2)
    same(run_at, wholes(config, 2))
    note("kill -9 of one of 2 processes before the first step", "sft", 4, "the other ends, one line", max(delays))


JOIN = "from pivot_jax.parallel import hosts\nhosts.JOIN_S = 5"


def test_a_process_that_never_starts(tortured, note, tmp_path):
    with Processes(tortured(), tmp_path / "run", 2, code={0: JOIN}) as run:
        since = run.send(1, signal.SIGKILL)
        assert 0 not in run.ended([0], 120), run.said()
        delay = time.monotonic() - since
        assert "process 0 of 2 was killed, or not all have reached" in run.last_line(0), run.said()
    note("one of 2 processes never starts", "sft", 1, "the other ends after its limit (300 s, here 5), one line", delay)


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_elastic(config_of, note, tmp_path, kind):
    """A run moves on three times, each time to other processes, devices and another mesh."""
    stays = [
        (2, 2, dict(parallel__data=2, parallel__fsdp=2)),
        (4, 1, dict(parallel__data=4, parallel__fsdp=1)),
        (1, 2, dict(parallel__data=1, parallel__fsdp=1, parallel__tensor=2)),
        (2, 1, dict(parallel__data=1, parallel__fsdp=2)),
    ]
    changes = dict(data__batch_size=8, train__steps=STEPS, train__checkpoint_every=1000)
    if kind == "grpo":  # three stops of four are inside of an update
        changes |= dict(data__batch_size=16, rl__minibatches=4, rl__kl_coefficient=0.01)
    whole, run_at = tmp_path / f"{kind}-whole", tmp_path / kind
    completed(config_of(kind, **changes), whole, 1)
    for index, (count, devices, mesh) in enumerate(stays):
        config = config_of(kind, **changes, **mesh)
        if index == len(stays) - 1:
            completed(config, run_at, count, devices=devices)
            continue
        with Processes(config, run_at, count, devices=devices, code={0: SLOW}) as run:
            run.reach(2 + (checkpoint.newest(run_at) if index else 0))
            run.send(count - 1, signal.SIGTERM)
            assert set(run.ended(limit=300)) == {143}, run.said()
    assert checkpoint.newest(run_at) == STEPS
    close(run_at, whole)
    if kind == "grpo":
        assert sampled(run_at) == sampled(whole)
    note("resumed on 2x2, 4x1, 1x2, 2x1 processes x devices in turn", kind, 1, "same data, same curve to rounding")


def close(ours: Path, theirs: Path) -> None:
    """Same curve and parameters, but for rounding; another order of rows would change losses by hundredths."""
    logs = [read(workdir / "metrics.jsonl") for workdir in (ours, theirs)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for key in ("loss", "grad_norm", "num_tokens"):
        np.testing.assert_allclose(*([row[key] for row in log] for log in logs), rtol=1e-4, atol=1e-6, err_msg=key)
    ends = [rules.flatten(checkpoint.load_run(workdir)) for workdir in (ours, theirs)]
    assert ends[0].keys() == ends[1].keys()
    for path, leaf in ends[0].items():
        if not path.endswith("attn/k/bias"):  # its gradient is rounding alone, which AdamW scales to a step
            np.testing.assert_allclose(leaf, ends[1][path], atol=5e-5, err_msg=path)
