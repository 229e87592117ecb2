"""SkyPilot's task: its environment as our three variables; and SkyPilot's own parser, where that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from pivot_jax.launch.machines import SKY_GPUS
from tests.tiny.launches import launched, write

PARSE = """
import json, sys
import sky
found = []
for path in sys.argv[1:]:
    task = sky.Task.from_yaml(path)
    (resources,) = task.resources
    mounts = {where: (str(store.source), store.mode.value) for where, store in task.storage_mounts.items()}
    about = [resources.accelerators, resources.image_id, resources.use_spot, resources.job_recovery]
    found.append([task.num_nodes, *about, mounts])
print(json.dumps(found))
"""


def task(**options):
    return yaml.safe_load(launched("skypilot", **options).contents["task.yaml"])


def test_the_nodes_variables_become_ours(tmp_path):
    run = task(topology="h200-8x4")["run"].replace("/mnt/lab-bucket", str(tmp_path))
    write(
        tmp_path / "bin" / "pivot-jax",
        '#!/bin/bash\necho "$PIVOT_COORDINATOR $PIVOT_NUM_PROCESSES $PIVOT_PROCESS_ID $PWD $@"\n',
    )
    nodes = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n10.0.0.3\n10.0.0.4",
        "SKYPILOT_NUM_NODES": "4",
        "SKYPILOT_NODE_RANK": "2",
    }
    env = {**os.environ, **nodes, "HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", run], env=env, capture_output=True, text=True, timeout=60)
    config = f"{tmp_path}/pivot-jax-config.json"
    assert done.stdout == f"10.0.0.1:8476 4 2 {tmp_path} train --config {config} --workdir {tmp_path}/runs/x\n", (
        done.stderr
    )
    assert json.loads((tmp_path / "pivot-jax-config.json").read_text())["name"] == "stage2_dpo"


def test_hardware_and_recovery():
    gpus = task(topology="h200-8x4", spot=True, restarts=7)
    assert (gpus["num_nodes"], gpus["resources"]["accelerators"], gpus["resources"]["use_spot"]) == (4, "H200:8", True)
    assert gpus["resources"]["job_recovery"] == {"max_restarts_on_errors": 7}
    tpu = task(topology="v5e-16")
    assert (tpu["num_nodes"], tpu["resources"]["accelerators"]) == (1, "tpu-v5litepod-16")
    assert "PIVOT_DISTRIBUTED=auto" in tpu["run"] and "SKYPILOT_NODE_IPS" not in tpu["run"]
    assert "PIVOT" not in task(topology="h200-8")["run"].replace("PIVOT_JAX_CONFIG", "")


def test_skypilots_own_parser_takes_them(tmp_path):
    """In the Python of the variable SKYPILOT_PYTHON, or in this one if it has SkyPilot."""
    python = os.environ.get("SKYPILOT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import sky"], capture_output=True).returncode:
        pytest.skip(
            "SkyPilot is not installed (pip install skypilot in an environment of its own; SKYPILOT_PYTHON names it)"
        )
    shapes = [f"{name}-8" for name in SKY_GPUS] + ["h200-8x4", "v4-8", "v5e-16", "v5p-16", "v6e-16"]
    shapes = [shape.replace("gh200-8", "gh200-1") for shape in shapes]
    paths = []
    for shape in shapes:
        text = launched("skypilot", topology=shape, workdir="s3://lab-bucket/runs/x", spot=True).contents["task.yaml"]
        paths.append(str(write(tmp_path / f"{shape}.yaml", text)))
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": ""}
    done = subprocess.run([python, "-c", PARSE, *paths], capture_output=True, text=True, timeout=900, env=env)
    assert done.returncode == 0, done.stderr
    for shape, (nodes, accelerators, image, spot, recovery, mounts) in zip(
        shapes, json.loads(done.stdout), strict=True
    ):
        ((name, count),) = accelerators.items()
        assert nodes == (4 if shape == "h200-8x4" else 1) and spot
        assert (name, count) == (
            (f"tpu-{shape.replace('v5e', 'v5litepod')}", 1)
            if shape[0] == "v"
            else (SKY_GPUS[shape.split("-")[0]], int(shape.split("-")[1][0]))
        )
        assert next(iter(image.values())).startswith("docker:us-docker.pkg.dev/")
        assert recovery["max_restarts_on_errors"] == 3
        assert mounts == {"/mnt/lab-bucket": ["s3://lab-bucket", "MOUNT"]}
