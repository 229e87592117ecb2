"""Every target with three configs: scripts by shellcheck, Kubernetes objects by schemas, the config read back."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pivot_jax import config as configs
from pivot_jax.cli import main as cli
from pivot_jax.launch.options import TARGETS
from tests.tiny.crds import JOBSET, KUEUE, QUEUE_LABEL
from tests.tiny.launches import GIVEN, check_script, launched

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("pivot/stage2_dpo.py", "pivot/stage1b.py", "maye/mm_math5k.py")
# Further hardware: nodes, slices, one process per GPU.
MORE = [
    ("slurm", "pivot/stage2_dpo.py", {}, {"topology": "h200-8x4"}),
    ("slurm", "pivot/stage2_dpo.py", {}, {"topology": "a100-8x2", "per": "gpu", "sbatch": ("partition=gpu", "qos=x")}),
    ("slurm", "pivot/stage2_dpo.py", {}, {"array": ("objective.beta", "0.05", "0.1"), "setup": "SETUP"}),
    ("gke", "pivot/stage2_dpo.py", {}, {"topology": "h200-8x4", "service_account": "trainer", "namespace": "lab"}),
    ("gke", "pivot/stage2_dpo.py", {"parallel.data": 2}, {"topology": "v6e-16x2"}),
    ("gke", "pivot/stage2_dpo.py", {}, {"topology": "v5e-8", "workdir": "/data/x", "claim": "nfs:/data", "queue": ""}),
    ("tpu", "pivot/stage2_dpo.py", {"parallel.data": 2}, {"topology": "v6e-16x2", "spot": True, "project": "lab"}),
    ("tpu", "pivot/stage2_dpo.py", {}, {"topology": "v4-16", "workdir": "/nfs/runs/x", "setup": "SETUP"}),
    ("skypilot", "pivot/stage2_dpo.py", {}, {"topology": "h200-8x4", "spot": True}),
    ("skypilot", "pivot/stage2_dpo.py", {}, {"topology": "v6e-16", "setup": "SETUP"}),
    ("ssh", "pivot/stage2_dpo.py", {}, {"topology": "h200-8x2", "hosts": ("me@node1", "node2"), "per": "gpu"}),
]  # fmt: skip
CASES = [(to, spec, {}, {}) for to in TARGETS for spec in CONFIGS] + MORE


def check_jobset(text: str) -> dict:
    """The JobSet in a file, whose objects fit their schemas."""
    config, jobset = yaml.safe_load_all(text)
    kubernetes_validate.validate(config, "1.31", strict=True)
    jsonschema.validate(jobset, JOBSET)
    (job,) = jobset["spec"]["replicatedJobs"]
    metadata = {"metadata": {"name": jobset["metadata"]["name"]}}
    kubernetes_validate.validate(
        {"apiVersion": "batch/v1", "kind": "Job", **metadata, **job["template"]}, "1.31", strict=True
    )
    pod = job["template"]["spec"]["template"]["spec"]
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == names
    assert jobset["metadata"].get("labels", {QUEUE_LABEL: "x"}).keys() == {QUEUE_LABEL}
    return jobset


def read_back(text: str):
    """The config in a script or manifest, wherever it is."""
    if text.startswith("apiVersion"):
        return configs.from_json(next(yaml.safe_load_all(text))["data"]["config.json"])
    text = yaml.safe_load(text)["run"] if text.startswith("name:") else text
    return configs.from_json(re.search(r"<<'(PIVOT_JAX_CONFIG)'\n(.*)\n\1\n", text, re.DOTALL)[2])


@pytest.mark.parametrize(("to", "spec", "keys", "options"), CASES, ids=lambda x: str(x) if isinstance(x, str) else "")
def test_what_is_generated_is_valid(to, spec, keys, options, tmp_path):
    setup = tmp_path / "setup.sh"
    setup.write_text("module load cuda\n")
    options = {key: str(setup) if value == "SETUP" else value for key, value in options.items()}
    made = launched(to, spec, keys, **options)
    (carrier,) = [text for text in made.contents.values() if '"objective": {' in text]
    assert configs.to_json(read_back(carrier)) == configs.to_json(configs.load(spec, keys))
    for name, text in made.contents.items():
        assert ("module load cuda\n" in text) == ("setup" in options and text is carrier)
        if name.endswith(".sh"):
            check_script(text)
        elif to == "gke":
            check_jobset(text)
        else:
            check_script(yaml.safe_load(text)["run"])


@pytest.mark.parametrize("to", TARGETS)
def test_a_dry_run_prints_what_a_launch_writes(to, tmp_path, capsys):
    options = {**GIVEN[to], "config": "pivot/stage2_dpo.py"}
    words = ["launch", "--to", to]
    for key, value in options.items():
        words += [f"--{key}", *((value,) if isinstance(value, str) else value)]
    assert cli.main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    out = tmp_path / "out"
    assert cli.main([*words, "--out", str(out)]) == 0
    written = {path.name: path.read_text() for path in out.iterdir() if not path.name.startswith(".")}
    assert written == launched(to).contents
    assert all(f"#### {name}\n{text}" in shown for name, text in written.items())
    *_, command = capsys.readouterr().out.splitlines()
    assert str(out) in command and command.replace(str(out), "DIR") == shown.splitlines()[-1]
    assert all((path.stat().st_mode & 0o111 != 0) == path.read_text().startswith("#!") for path in out.iterdir())
    assert cli.main([*words, "--out", str(out), "--name", "again"]) == 0  # its own files may be replaced
    (out / "notes.txt").write_text("mine")
    assert cli.main([*words, "--out", str(out)]) == 1
    assert "notes.txt" in capsys.readouterr().err and (out / "notes.txt").read_text() == "mine"


def container_of(jobset: dict) -> dict:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]


def test_slices_of_tpus_are_jobs_of_a_jobset():
    made = launched("gke", keys={"parallel.data": 2}, topology="v6e-16x2")
    jobset = check_jobset(made.contents["jobset.yaml"])
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, 4, 4)
    assert jobset["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert spec["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice", "cloud.google.com/gke-tpu-topology": "4x4"
    }  # fmt: skip
    container = container_of(jobset)
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": 4}
    assert {"name": "PIVOT_DISTRIBUTED", "value": "auto"} in container["env"]


def test_nodes_with_gpus_find_the_first_pod():
    made = launched("gke", topology="h200-8x4", name="dpo", grace=600)
    jobset = check_jobset(made.contents["jobset.yaml"])
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 600
    env = {one["name"]: one for one in container_of(jobset)["env"]}
    assert (
        env["PIVOT_COORDINATOR"]["value"] == "dpo-workers-0-0.dpo:8476" and env["PIVOT_NUM_PROCESSES"]["value"] == "4"
    )
    assert "job-completion-index" in env["PIVOT_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_stops_that_saved_are_no_failures():
    """Exit codes of a saved run, and pods that Kubernetes takes away, restart without being counted."""
    spec = check_jobset(launched("gke", restarts=5).contents["jobset.yaml"])["spec"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert spec["failurePolicy"]["maxRestarts"] == 5
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    codes, taken = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"]["values"] == [129, 143] and taken["onPodConditions"][0]["type"] == "DisruptionTarget"


def test_the_queues_of_the_documentation_are_kueues():
    text = (ROOT / "docs" / "guides" / "launch.md").read_text()
    found = [one for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for one in yaml.safe_load_all(block)]
    assert sorted(one["kind"] for one in found) == ["ClusterQueue", "LocalQueue", "ResourceFlavor"]
    for one in found:
        jsonschema.validate(one, KUEUE[one["kind"]])


def test_the_schemas_find_mistakes():
    config, jobset = yaml.safe_load_all(launched("gke").contents["jobset.yaml"])
    jobset["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    with pytest.raises(jsonschema.ValidationError, match="'Restart' is not one of"):
        check_jobset(yaml.safe_dump_all([config, jobset]))
    config, jobset = yaml.safe_load_all(launched("gke").contents["jobset.yaml"])
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check_jobset(yaml.safe_dump_all([config, jobset]))


def documented_launches() -> list[str]:
    text = (ROOT / "docs" / "guides" / "launch.md").read_text().replace("\\\n", " ")
    return [line for line in re.findall(r"^pivot-jax launch .*$", text, re.MULTILINE) if "--out" in line]


@pytest.mark.parametrize("command", documented_launches())
def test_the_documentations_launches_work(command, capsys, monkeypatch):
    """And the command after each is the one that they print."""
    monkeypatch.chdir(ROOT)
    assert cli.main([*shlex.split(command)[1:], "--dry-run"]) == 0
    submit = capsys.readouterr().out.splitlines()[-1]
    assert f"\n{submit}\n" in (ROOT / "docs" / "guides" / "launch.md").read_text()
