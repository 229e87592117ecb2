"""The real libraries where their servers are gone, and where the run is killed."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tracked
from tests.tiny.tracked import memory

pytestmark = pytest.mark.usefixtures("libraries")
ALL = ("tensorboard", "wandb", "mlflow", "trackio")

# Lines from `resumed` to `last`, and then the end, or the wait for a kill once every tracker has them.
CHILD = """
import json, sys, time
from pathlib import Path
from pivot_jax import config as configs
from pivot_jax.train.trackers import table
from pivot_jax.train.trackers.base import Bundle
workdir, project, resumed, last, ends = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
table.PATIENCE = 300
names = ("tensorboard", "wandb", "mlflow", "trackio")
config = configs.load("", {"train.trackers": names, "train.tracker_project": project})
trackers = table.open_trackers(config, workdir, resumed)
longest = 0.0
for step in range(resumed + 1, last + 1):
    began = time.monotonic()
    trackers.write(step, {"loss": 1 / step})
    longest = max(longest, time.monotonic() - began)
def sent(name):
    path = workdir / "trackers" / f"{name}.json"
    held = name == "wandb"  # the row of the last step
    return path.exists() and json.loads(path.read_text()).get("mark") == [last - held, 1]
while not ends:
    if all(map(sent, names)):
        print("sent", flush=True)
        time.sleep(1e6)
    time.sleep(0.1)
began = time.monotonic()
trackers.close(ends == 2)
print(f"write {longest:.3f} close {time.monotonic() - began:.3f}", flush=True)
"""


def child(workdir: Path, project: str, *numbers: int) -> list[str]:
    return [sys.executable, "-c", CHILD, str(workdir), project, *map(str, numbers)]


def everything(workdir: Path, project: str, last: int) -> None:
    """Every tracker has every step once (the readers raise otherwise), with the log's values."""
    expected = {step: {"loss": 1 / step} for step in range(1, last + 1)}
    assert tracked.of_log(workdir) == expected
    assert tracked.of_wandb(workdir)[0] == expected
    assert tracked.of_mlflow(memory(workdir, "mlflow")["run_id"]) == expected
    assert tracked.of_trackio(memory(workdir, "trackio")["name"], project)[0] == expected
    shown = {step: float(np.float32(1 / step)) for step in expected}
    assert {step: row["loss"] for step, row in tracked.of_tensorboard(workdir).items()} == shown


def test_a_killed_run_continues_everywhere(tmp_path):
    """kill -9 after step 12, resumed from the checkpoint of step 8."""
    with subprocess.Popen(child(tmp_path, "killed", 0, 12, 0), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and any(line == "sent\n" for line in process.stdout)
        process.kill()
    subprocess.run(child(tmp_path, "killed", 8, 15, 2), check=True, timeout=800)
    everything(tmp_path, "killed", 15)


def test_servers_that_are_gone_cost_seconds(tmp_path):
    """The run writes its log at its pace and ends; a later process sends everything."""
    gone = {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "a" * 40,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "TRACKIO_SERVER_URL": "http://127.0.0.1:9/?write_token=x",
    }
    began = time.monotonic()
    done = subprocess.run(
        child(tmp_path, "gone", 0, 500, 1), env=os.environ | gone, capture_output=True, text=True, timeout=800
    )
    whole = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-3000:]
    write, close = map(float, re.findall(r"write (.*) close (.*)", done.stdout)[0])
    assert write < 2.0 and close < 10.0, (write, close, whole)
    assert len(tracked.of_log(tmp_path)) == 500
    for name in ("wandb", "mlflow", "trackio"):
        assert f"train.trackers: {name} " in done.stderr and "metrics.jsonl is complete" in done.stderr
    subprocess.run(child(tmp_path, "gone", 500, 503, 2), check=True, timeout=800)
    everything(tmp_path, "gone", 503)


def test_wandb_without_a_login_is_left_out_and_asks_nothing(tmp_path):
    """W&B would ask at the terminal, in the middle of the progress bar."""
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_API_KEY")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    code = CHILD.replace('"tensorboard", "wandb", "mlflow", "trackio"', '"wandb",')
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "nobody", "0", "3", "2"],
        env=environment, capture_output=True, text=True, timeout=800, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "wandb failed (UserError: no login; run `wandb login`, or set WANDB_MODE=offline)" in done.stderr
    lines = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(map(math.isclose, lines, (1, 1 / 2, 1 / 3)))
