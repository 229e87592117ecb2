"""Studies through Snakemake's executors: SLURM whose commands run jobs here, a Kubernetes API that only keeps them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from pivot_jax.config import catalogue
from tests.tiny.demo import reduce

ROOT = Path(__file__).resolve().parents[2]
SBATCH = """#!{python}
import json, os, subprocess, sys
here = os.path.dirname(__file__)
number = str(1000 + len(os.listdir(here + "/submitted")))
wrapped = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("--wrap=")), None)
script = sys.argv[sys.argv.index("--wrap") + 1] if "--wrap" in sys.argv else wrapped or sys.stdin.read()
with open(f"{{here}}/submitted/{{number}}", "w") as file:
    json.dump({{"arguments": sys.argv[1:], "script": script}}, file)
environment = os.environ | {{"SLURM_JOB_ID": number, "SLURM_JOBID": number}}
job = subprocess.Popen(["bash", "-c", f"{{script}}\\necho $? > {{here}}/ended/{{number}}"], env=environment,
                       stdout=open(f"{{here}}/out-{{number}}", "w"), stderr=subprocess.STDOUT, start_new_session=True)
print(number)
"""
SACCT = """#!{python}
import os, sys
here = os.path.dirname(__file__)
for number in os.listdir(here + "/submitted"):
    ended = f"{{here}}/ended/{{number}}"
    text = open(ended).read().strip() if os.path.exists(ended) else None
    state = "RUNNING" if not text else "COMPLETED" if text == "0" else "FAILED"
    print(f"{{number}}|{{state}}")
"""
SRUN = """#!{python}
import os, sys
command = sys.argv[1:]
while command[0].startswith("-"):
    command.pop(0)
os.execvp(command[0], command)
"""


@pytest.fixture
def study(tmp_path):
    """A small copy of the demo whose Stage 1 says what it needs on a cluster."""
    folder = tmp_path / "demo"
    shutil.copytree(catalogue.folder() / "demo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    reduce(folder)
    needs = {"runtime": 30, "mem_mb": 3000, "slurm_partition": "short", "slurm_account": "lab", "nodes": 1}
    text = (folder / "study.py").read_text()
    text = text.replace('"stage1b": {', f'"stage1b": {{"resources": {needs},', 1)
    (folder / "study.py").write_text(text)
    return folder / "study.py"


def start(study: Path, root: Path, profile: Path | str, environment: dict[str, str], *more: str):
    command = [sys.executable, "-m", "pivot_jax.cli", "study", str(study), "--workdir", str(root)]
    return subprocess.run(
        [*command, "--profile", str(profile), *more],
        capture_output=True, text=True, cwd=root.parent, env=environment | {"PYTHONPATH": str(ROOT)}, timeout=800,
    )  # fmt: skip


@pytest.mark.heavy
def test_slurm_gets_what_a_stage_declares(study, tmp_path):
    bin_folder = tmp_path / "bin"
    for name in ("submitted", "ended"):
        (bin_folder / name).mkdir(parents=True)
    scripts = {"sbatch": SBATCH, "sacct": SACCT, "srun": SRUN, "sinfo": "#!{python}\n", "scancel": "#!{python}\n",
               "sacctmgr": "#!{python}\nprint('lab')\n", "sshare": "#!{python}\nprint('lab')\n"}  # fmt: skip
    for name, text in scripts.items():
        (bin_folder / name).write_text(text.format(python=sys.executable))
        (bin_folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    root = tmp_path / "work"
    done = start(study, root, ROOT / "launch" / "snakemake" / "slurm", environment, "--until", "stage1b")
    outputs = "\n".join(path.read_text() for path in bin_folder.glob("out-*"))
    assert done.returncode == 0, done.stderr + (root / "logs" / "snakemake.txt").read_text()[-3000:] + outputs[-3000:]
    (submitted,) = [json.loads(path.read_text()) for path in (bin_folder / "submitted").iterdir()]
    arguments = " ".join(submitted["arguments"])
    for wanted in ("-t 30", "--mem 3000", "-p short", "-A lab", "--nodes=1", "--ntasks=1"):
        assert wanted in arguments.replace("'", ""), (wanted, arguments)
    assert list(root.glob("results/stage1b-*.answers-*.json")) and list(root.glob("jobs/stage1b-*.json"))


class Api(BaseHTTPRequestHandler):
    """As much of Kubernetes' API as Snakemake's executor calls; jobs fail at once."""

    jobs: list[dict[str, Any]]

    def _answer(self, content: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/jobs"):
            self.jobs.append(content)
        self._answer({"apiVersion": "v1", "metadata": {"name": "x"}, **content}, 201)

    def do_GET(self) -> None:
        if self.path.endswith("/pods") or "pods?" in self.path:
            return self._answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})
        return self._answer({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "x"},
                             "spec": {"template": {}}, "status": {"failed": 1}})  # fmt: skip

    def do_DELETE(self) -> None:
        self._answer({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.heavy
@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync, which Snakemake's storage plugin calls, is not installed")
def test_kubernetes_gets_valid_jobs(study, tmp_path):
    import kubernetes_validate

    handler = type("Handler", (Api,), {"jobs": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = tmp_path / "kube.yaml"
    config.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }))  # fmt: skip
    text = study.read_text().replace("'slurm_partition': 'short'", "'gpu': 1, 'gpu_manufacturer': 'nvidia'")
    study.write_text(text)
    environment = {**os.environ, "KUBECONFIG": str(config)}
    root = tmp_path / "work"
    done = start(study, root, ROOT / "launch" / "snakemake" / "kubernetes", environment, "--until", "stage1b")
    server.shutdown()
    log = (root / "logs" / "snakemake.txt").read_text()
    assert done.returncode == 1 and handler.jobs, done.stderr + log[-3000:]
    (job,) = handler.jobs
    kubernetes_validate.validate({"apiVersion": "batch/v1", "kind": "Job", **job}, "1.31", strict=False)
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == "ghcr.io/OWNER/pivot-jax:latest"
    assert {"name": "study", "mountPath": "/study"} in container["volumeMounts"]
    assert container["resources"]["requests"]["memory"].startswith("3000")
    assert "nvidia.com/gpu" in json.dumps(container["resources"])
    assert "--target-jobs 'stage1b:job=stage1b-" in container["args"][1]
