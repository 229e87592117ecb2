"""Ends before the last step: kills, signals, losses that are not finite, full disks (G3)."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint, loop, reference
from pivot_jax.train.metrics import MetricsWriter, read
from pivot_jax.train.run import run
from pivot_jax.train.setup import build_setup, starting_params
from tests.train.conftest import source

SPEED = ("perf/", "seconds")
ONE_DEVICE = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def trace(workdir):
    """Metrics that do not depend on the clock."""
    return [{k: v for k, v in line.items() if not k.startswith(SPEED)} for line in read(workdir / "metrics.jsonl")]


def same_bits(a, b):
    a, b = (rules.flatten(checkpoint.load_run(workdir)) for workdir in (a, b))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def test_G3_a_stopped_run_continues_with_the_same_loss_trace(make_config, tmp_path, monkeypatch):
    """Stopped by SIGTERM between two checkpoints and inside a window of averaged metrics."""
    config = make_config(train__steps=7, train__log_every=3)
    run(config, tmp_path / "whole")
    account = loop._Run._account

    def stop_at_five(self, done, state):
        account(self, done, state)
        if done.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Run, "_account", stop_at_five)
    with pytest.raises(loop.Interrupted, match="checkpoint saved") as stopped:
        run(config, tmp_path / "cut")
    assert 5 <= stopped.value.step <= 6
    monkeypatch.undo()
    result = run(config, tmp_path / "cut")
    assert result.step == 7
    assert trace(tmp_path / "cut") == trace(tmp_path / "whole")
    same_bits(tmp_path / "cut", tmp_path / "whole")
    assert run(config, tmp_path / "cut").seconds == 0  # finished: nothing is done again


def start(config_file: Path, workdir: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from pivot_jax import config as c; from pivot_jax.train.run import run; "
        "run(c.from_json(Path(sys.argv[1]).read_text()), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(config_file), str(workdir)]
    return subprocess.Popen(command, env=ONE_DEVICE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps_logged(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    lines = read(path) if path.exists() else []
    return lines[-1]["step"] if lines else 0


@pytest.mark.parametrize("wanted", [1, pytest.param(5, marks=pytest.mark.heavy)])
def test_G3_kill_9_at_random_moments_leaves_the_same_bits(make_config, tmp_path, wanted):
    """24 rows in batches of 8: an epoch ends every third step, so the kills fall on both sides of its boundary."""
    total, last, draw = 60, 37, random.Random(7)  # far enough from the end to be in time on a busy machine
    config = make_config(train__steps=total, train__checkpoint_every=3, objective__name="sft")
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(file, whole).wait(300) == 0
    kills = 0
    for at in sorted(draw.sample(range(3, last), wanted)):
        process = start(file, cut)
        limit = time.monotonic() + 300
        while steps_logged(cut) < at and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.03))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert start(file, cut).wait(300) == 0
    assert kills == wanted, "the run was over before it could be killed; make it longer"
    same_bits(whole, cut)
    assert trace(cut) == trace(whole)


def test_a_run_killed_in_its_first_save_begins_anew(make_config, tmp_path):
    """All that is left are the files of before the first step, a log and a checkpoint that is not complete."""
    config = make_config(train__steps=3)
    run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "result.json").unlink()
    (newest,) = (tmp_path / "cut" / "checkpoints").iterdir()
    newest.rename(newest.with_name("3.orbax-checkpoint-tmp"))
    assert run(config, tmp_path / "cut").step == 3
    assert trace(tmp_path / "cut") == trace(tmp_path / "whole")
    same_bits(tmp_path / "cut", tmp_path / "whole")


def test_a_killed_pass_of_the_reference_goes_on_where_it_was(make_config, world, tmp_path, monkeypatch):
    """And ends with the same numbers; other weights begin anew."""
    config = make_config(objective__name="dpo", data__sources=(source(world, "next_dpo"),))
    setup = build_setup(config, tmp_path)
    params = starting_params(setup)
    seen = []

    def stored(workdir, params, stop=None):
        workdir.mkdir(exist_ok=True)
        seen.clear()

        def show(batches, left, label):
            for batch in batches:
                if len(seen) == stop:
                    raise KeyboardInterrupt
                seen.append(left)
                yield batch

        return reference.stored(setup.model.module, params, setup.loader, setup.mesh, workdir, show)

    whole = stored(tmp_path / "whole", params)
    assert seen == [3, 3, 3] and np.isfinite(whole).all()  # 24 pairs, 8 a batch
    monkeypatch.setattr(reference, "KEEP_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "cut", params, stop=2)
    np.testing.assert_array_equal(stored(tmp_path / "cut", params), whole)
    assert seen == [1]
    np.testing.assert_array_equal(stored(tmp_path / "cut", params), whole)
    assert seen == [] and [path.name for path in (tmp_path / "cut").iterdir()] == [reference.FILE]
    stored(tmp_path / "cut", jax.tree.map(lambda x: 1.1 * x, params))
    assert len(seen) == 3


def test_stored_sums_of_an_earlier_version_are_computed_again(chain, tmp_path):
    """They held one sum per answer. A resumed run takes them for its own and replaces them, as no numbers move."""
    shutil.copytree(chain["dpo"], tmp_path / "run")
    path = tmp_path / "run" / reference.FILE
    with np.load(path) as file:
        now = dict(file)
    assert now["logps"].shape == (now["offsets"][-1],) and len(now["offsets"]) == 25
    np.savez(path, logps=np.zeros((24, 2), np.float32), fingerprint=now["fingerprint"], batches=now["batches"])
    run(configs.from_json((chain["dpo"] / "config.json").read_text()), tmp_path / "run")
    with np.load(path) as file:
        again = dict(file)
    for name, values in now.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(make_config, tmp_path):
    config = make_config(train__steps=6, optimizer__rules=((".*", 1e30),), optimizer__clip=0.0)
    with pytest.raises(UserError, match=r"step \d+: loss .*rows row\d+.*no parameter was changed, step \d+ is saved"):
        run(config, tmp_path / "run")
    params = checkpoint.load_run(tmp_path / "run")
    assert all(np.all(np.isfinite(leaf)) for leaf in rules.flatten(params).values())


def test_a_workdir_of_another_config_is_refused_and_kept(make_config, tmp_path):
    run(make_config(train__steps=1), tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"belongs to another config \(optimizer.b1: 0.9 → 0.8"):
        run(make_config(train__steps=1, optimizer__b1=0.8), tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_a_start_that_failed_does_not_claim_the_workdir(make_config, tmp_path):
    config = make_config(train__steps=1)
    broken = configs.from_json(configs.to_json(config))
    configs.merge(broken, {"tokenizer.path": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere"):
        run(broken, tmp_path / "run")
    assert run(config, tmp_path / "run").step == 1


@pytest.mark.heavy
def test_too_many_bad_rows_stop_the_run_but_lose_nothing(make_config, world, tmp_path, capsys):
    """Pictures that break only when they are decoded; with a larger limit the same run goes on and says how many."""
    data = tmp_path / "data"
    shutil.copytree(world, data)
    rows = json.loads((data / "chat.json").read_text())
    rows = [row | {"id": f"{i}"} for i, row in enumerate(rows[:8] * 5 + rows[16:])]
    (data / "chat.json").write_text(json.dumps(rows))
    for name in ("22.png", "23.png"):  # of the sixth batch
        (data / name).write_bytes((data / name).read_bytes()[:60])
    source = {"format": "llava", "path": str(data / "chat.json"), "image_root": str(data)}
    changes = {"data__sources": (source,), "data__shuffle": False, "data__cache_images_mib": 0, "train__steps": 9}
    changes |= {"data__prefetch": 1, "data__workers": 1}
    with pytest.raises(UserError, match="of 48 rows"):
        run(make_config(**changes, data__max_bad_share=0.02), tmp_path / "run")
    saved = checkpoint.newest(tmp_path / "run")
    assert saved > 0
    assert run(make_config(**changes, data__max_bad_share=0.5), tmp_path / "run").step == 9
    assert f"step {saved} of 9" in (printed := capsys.readouterr().out)
    assert "2 bad rows were left out" in printed


@pytest.mark.parametrize("name", ["config.json", pytest.param("metrics.jsonl", marks=pytest.mark.heavy)])
def test_a_start_that_cannot_write_keeps_what_is_there(make_config, tmp_path, monkeypatch, name):
    """Both files are written again at every start, and no half of one may take its place."""
    config = make_config(train__steps=2)
    run(config, tmp_path)
    before = (tmp_path / name).read_bytes()
    write_text = Path.write_text

    def full(path, text, **options):
        if path.name.startswith(Path(name).stem):
            write_text(path, text[: len(text) // 2], **options)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    shutil.rmtree(tmp_path / "checkpoints" / "2")  # nothing is written where a run is finished
    with pytest.raises(UserError, match=f"{name} could not be written .No space left on device.; free disk space"):
        run(config, tmp_path)
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob("*.partial*"))


def test_a_full_disk_does_not_stop_the_log_for_ever(tmp_path, monkeypatch):
    """More lines than TensorBoard's usual queue holds, none of which can be written."""
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 1.0, "odd": float("nan")})

    def full(event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer._board._events, "write_event", full)
    for step in range(2, 40):
        with pytest.raises(UserError, match="metrics.jsonl could not be written"):
            writer.write(step, {"loss": 1.0})
    writer.close()
    assert read(tmp_path / "metrics.jsonl")[0] == {"step": 1, "loss": 1.0, "odd": None}


def test_tensorboard_reads_the_lines_and_forgets_what_comes_again(tmp_path):
    for resumed in (0, 1):
        writer = MetricsWriter(tmp_path, resumed)
        for step in range(resumed + 1, 4):
            writer.write(step, {"loss": step + 10.0 * resumed})
        writer.close()
    events = []
    for file in sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    losses = [(event.step, event.summary.value[0].simple_value) for event in events if event.summary.value]
    assert losses[-2:] == [(2, 12.0), (3, 13.0)] and (1, 1.0) in losses
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [1, 2]


def test_a_metric_that_is_not_logged_cannot_be_the_best(make_config, tmp_path):
    with pytest.raises(UserError, match="'los' is not logged; there are: entropy"):
        run(make_config(train__steps=1, train__best_metric="-los"), tmp_path)


@pytest.mark.heavy
def test_a_full_disk_keeps_the_checkpoint_before(make_config, tmp_path):
    """A file-size limit stands in for the full disk: writing fails half-way, as it does there.

    What orbax's threads print is silenced as the command line does it: the reason is one line and not a traceback.
    """
    config = make_config(train__steps=8, train__checkpoint_every=4)
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    code = (
        "import sys, resource, signal; from pathlib import Path; from pivot_jax import config as c\n"
        "from pivot_jax.train import run as r, loop; from pivot_jax.cli.main import quiet_threads; quiet_threads()\n"
        "save = loop.Checkpoints.save\n"
        "def limited(self, step, *a, **k):\n"
        "    if step == 8:\n"
        "        self.wait(); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "    save(self, step, *a, **k)\n"
        "loop.Checkpoints.save = limited\n"
        "try: r.run(c.from_json(Path(sys.argv[1]).read_text()), sys.argv[2])\n"
        "except c.load.__globals__['UserError'] as e: print('REFUSED', e)\n"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path / "run")]
    done = subprocess.run(command, env=ONE_DEVICE, capture_output=True, text=True, timeout=300)
    assert "REFUSED checkpoint 8 could not be written" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "complete checkpoints: 4" in done.stdout
    assert "Traceback" not in done.stderr and "never" not in done.stderr, done.stderr
    assert checkpoint.Checkpoints(tmp_path / "run").latest() == 4
    assert start(file, tmp_path / "run").wait(300) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["resumed_from"] == 4
