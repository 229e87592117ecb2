"""Runs that end before the last step (kills, signals, non-finite losses, full disks), and how they resume."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint, reference
from pivot_jax.train.run import run
from pivot_jax.train.setup import build_setup, starting_params
from pivot_jax.train.signals import Interrupted
from tests.tiny.kills import ONE_DEVICE, run_with_kills, same_bits, start, trace
from tests.train.conftest import source, stop_at


def test_a_stopped_run_resumes_with_the_same_metrics_and_parameters(make_config, tmp_path):
    """Stopped by SIGTERM between two checkpoints and inside a window of averaged metrics."""
    config = make_config(train__steps=7, train__log_every=3, eval__every=4)
    run(config, tmp_path / "whole", [stop_at()])
    with pytest.raises(Interrupted, match="checkpoint saved") as stopped:
        run(config, tmp_path / "stopped", [stop_at(4)])
    assert stopped.value.step == 5 and checkpoint.newest(tmp_path / "stopped") == 5
    assert [line["step"] for line in trace(tmp_path / "stopped")] == [3]
    result = run(config, tmp_path / "stopped", [stop_at()])
    assert result.step == 7
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")
    assert run(config, tmp_path / "stopped").seconds == 0  # finished: nothing is computed again


@pytest.mark.parametrize("wanted", [1, pytest.param(5, marks=pytest.mark.heavy)])
@pytest.mark.heavy
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(make_config, tmp_path, wanted):
    """SIGKILL. An epoch of 24 rows in batches of 8 ends every third step, so kills are on both sides of its end."""
    total, last, draw = 60, 37, random.Random(7)  # far enough from the end to be in time on a busy machine
    config = make_config(train__steps=total, train__checkpoint_every=3, objective__name="sft")
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(config, whole)
    run_with_kills(file, stopped, draw.sample(range(3, last), wanted), draw, 0.03)
    same_bits(whole, stopped)
    assert trace(stopped) == trace(whole)


def test_a_run_killed_in_its_first_save_starts_over(make_config, tmp_path):
    """It leaves the files from before the first step, a log, and an incomplete checkpoint."""
    config = make_config(train__steps=3)
    run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (tmp_path / "stopped" / "result.json").unlink()
    (newest,) = (tmp_path / "stopped" / "checkpoints").iterdir()
    newest.rename(newest.with_name("3.orbax-checkpoint-tmp"))
    assert run(config, tmp_path / "stopped").step == 3
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")


def test_a_killed_reference_pass_resumes(make_config, world, tmp_path, monkeypatch):
    """It ends with the same numbers; with other weights it starts over."""
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
        stored(tmp_path / "stopped", params, stop=2)
    np.testing.assert_array_equal(stored(tmp_path / "stopped", params), whole)
    assert seen == [1]
    np.testing.assert_array_equal(stored(tmp_path / "stopped", params), whole)
    assert seen == [] and [path.name for path in (tmp_path / "stopped").iterdir()] == [reference.FILE]
    stored(tmp_path / "stopped", jax.tree.map(lambda x: 1.1 * x, params))
    assert len(seen) == 3


@pytest.mark.heavy
def test_stored_sums_of_an_earlier_version_are_computed_again(chain, tmp_path):
    """They held one sum per answer. A resumed run recognises them as its own and replaces them; no number moves."""
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


def test_a_nonfinite_loss_ends_the_run_and_names_step_and_rows(make_config, tmp_path):
    config = make_config(train__steps=6, optimizer__rules=((".*", 1e30),), optimizer__clip=0.0)
    with pytest.raises(UserError, match=r"step \d+: loss .*rows row\d+.*no parameter was changed, step \d+ is saved"):
        run(config, tmp_path / "run")
    params = checkpoint.load_run(tmp_path / "run")
    assert all(np.all(np.isfinite(leaf)) for leaf in rules.flatten(params).values())


def test_a_workdir_of_another_config_is_rejected_and_kept(make_config, tmp_path):
    run(make_config(train__steps=1), tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"belongs to another config \(optimizer.b1: 0.9 → 0.8"):
        run(make_config(train__steps=1, optimizer__b1=0.8), tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_a_failed_start_does_not_claim_the_workdir(make_config, tmp_path):
    config = make_config(train__steps=1)
    broken = configs.from_json(configs.to_json(config))
    configs.merge(broken, {"tokenizer.path": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere"):
        run(broken, tmp_path / "run")
    assert run(config, tmp_path / "run").step == 1


@pytest.mark.heavy
def test_too_many_bad_rows_end_the_run_with_its_state_saved(make_config, world, tmp_path, capsys):
    """Images that fail only when they are decoded; with a larger limit the run resumes and reports their number."""
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
    assert f"has step {saved} of 9; resuming" in (printed := capsys.readouterr().out)
    assert "2 bad rows were skipped" in printed


@pytest.mark.parametrize("name", ["config.json", pytest.param("metrics.jsonl", marks=pytest.mark.heavy)])
def test_a_start_that_cannot_write_keeps_the_existing_files(make_config, tmp_path, monkeypatch, name):
    """Both files are rewritten at every start, and half a file must never replace a whole one."""
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
    shutil.rmtree(tmp_path / "checkpoints" / "2")  # a finished run writes nothing
    with pytest.raises(UserError, match=f"{name} could not be written .No space left on device.; free disk space"):
        run(config, tmp_path)
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob("*.partial*"))


def test_best_metric_must_be_a_logged_one(make_config, tmp_path):
    with pytest.raises(UserError, match="'los' is not logged; there are: entropy"):
        run(make_config(train__steps=1, train__best_metric="-los"), tmp_path)


@pytest.mark.heavy
def test_a_full_disk_keeps_the_previous_checkpoint(make_config, tmp_path):
    """A file-size limit simulates the full disk: writing fails half-way.

    The output of orbax's threads is silenced as on the command line: the reason is one line, not a traceback.
    """
    config = make_config(train__steps=8, train__checkpoint_every=4)
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    code = (
        "import sys, resource, signal; from pathlib import Path; from pivot_jax import config as c\n"
        "from pivot_jax.train import run as r; from pivot_jax.train.checkpoints import Checkpoints\n"
        "from pivot_jax.cli.main import quiet_threads; quiet_threads()\n"
        "save = Checkpoints.save\n"
        "def limited(self, step, *a, **k):\n"
        "    if step == 8:\n"
        "        self.wait(); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "    save(self, step, *a, **k)\n"
        "Checkpoints.save = limited\n"
        "try: r.run(c.from_json(Path(sys.argv[1]).read_text()), sys.argv[2])\n"
        "except c.load.__globals__['UserError'] as e: print('REFUSED', e)\n"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path / "run")]
    done = subprocess.run(command, env=ONE_DEVICE, capture_output=True, text=True, timeout=300)
    assert "REFUSED checkpoint 8 could not be written" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "complete checkpoints: 4" in done.stdout
    assert "Traceback" not in done.stderr and "never" not in done.stderr, done.stderr
    assert checkpoint.newest(tmp_path / "run") == 4
    assert start(file, tmp_path / "run").wait(300) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["resumed_from"] == 4


def test_a_folder_of_other_files_is_rejected_and_unchanged(make_config, tmp_path):
    """A data set, a checkout, or a model with a config.json of its own; a run's log may be there already."""
    for name, text in (("data.json", "[]"), ("config.json", '{"model_type": "siglip"}')):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(UserError, match="name a new or an empty folder"):
            run(make_config(train__steps=1), folder)
        assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == text
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "log.txt").write_text("started\n")
    assert run(make_config(train__steps=1), tmp_path / "new").step == 1
