"""Launches of packaged configs, and stand-ins for the commands of clusters, which check what they are given."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax.launch.generate import Launch, generate
from pivot_jax.launch.options import Options

BUCKET = "gs://lab-bucket/runs/x"
IMAGE = "us-docker.pkg.dev/lab/images/pivot-jax:1"
# What every launch to a target has to say.
GIVEN: dict[str, dict[str, Any]] = {
    "slurm": {"workdir": "/shared/runs/x"},
    "gke": {"workdir": BUCKET, "image": IMAGE, "queue": "research"},
    "tpu": {"workdir": BUCKET, "image": IMAGE, "zone": "us-east5-a"},
    "skypilot": {"workdir": BUCKET, "image": IMAGE},
    "ssh": {"workdir": "/shared/runs/x", "hosts": ("node1",)},
}


def launched(to: str, spec: str = "pivot/stage2_dpo.py", keys: dict[str, Any] | None = None, **options: Any) -> Launch:
    """``options`` replace those of :data:`GIVEN`; ``keys`` are of the config."""
    return generate(configs.load(spec, keys or {}), Options(to=to, **GIVEN[to] | options))


def check_script(text: str, shell: str = "bash") -> None:
    """Raises AssertionError with what shellcheck finds in a script; quoted values may look like expansions (SC2016)."""
    _check("shellcheck", f"--shell={shell}", "--exclude=SC2016", "-", text=text)


def check_dockerfile(text: str) -> None:
    """Raises AssertionError with what hadolint finds, but for versions of Debian's packages, which vanish (DL3008)."""
    _check("hadolint", "--no-color", "--ignore=DL3008", "-", text=text)


def _check(program: str, *options: str, text: str) -> None:
    beside = Path(sys.executable).with_name(program)
    command = str(beside) if beside.exists() else shutil.which(program)
    assert command, f"{program} is missing; it comes with pip install -e '.[test]'"
    done = subprocess.run([command, *options], input=text, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def write(path: Path, text: str) -> Path:
    """A script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# Takes the options that gcloud has for these commands, and keeps the state of a queued resource in a file.
GCLOUD = f"""#!{sys.executable}
import json, os, re, sys
here = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[1:]
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
assert words[:3] == ["compute", "tpus", "queued-resources"], words
verb, name, *options = words[3:]
assert re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", name), name
common = {{"zone": r"[a-z]+-[a-z]+[0-9]-[a-z]", "project": r"[a-z][a-z0-9-]+"}}
known = {{
    "describe": {{**common, "format": r".+"}},
    "delete": {{**common, "force": None, "quiet": None}},
    "create": {{
        **common, "node-id": r"[a-z0-9-]+", "node-count": r"[0-9]+", "node-prefix": r"[a-z0-9-]+",
        "accelerator-type": r"(v4|v5litepod|v5p|v6e)-[0-9]+", "runtime-version": r"[a-z0-9-]+", "spot": None,
        "service-account": r".+@.+", "metadata-from-file": r"startup-script=.+",
    }},
}}[verb]
given = {{}}
for option in options:
    key, equals, value = option.removeprefix("--").partition("=")
    assert option.startswith("--") and key in known and key not in given, option
    assert (known[key] is None) == (not equals) and (known[key] is None or re.fullmatch(known[key], value)), option
    given[key] = value
assert "zone" in given
state = here + "/state"
if verb == "create":
    assert ("node-id" in given) != ("node-count" in given) and ("node-count" in given) == ("node-prefix" in given)
    assert {{"accelerator-type", "runtime-version"}} <= set(given)
    assert os.path.isfile(given["metadata-from-file"].partition("=")[2])
    assert not os.path.exists(state), "the queued resource is there already"
    open(state, "w").write("WAITING_FOR_RESOURCES")
elif verb == "delete":
    os.remove(state)
elif not os.path.exists(state):
    sys.exit("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND")
else:
    print(open(state).read())
"""
