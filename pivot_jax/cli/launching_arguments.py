"""Arguments of ``launch``."""

from __future__ import annotations

import argparse
from typing import Any

from pivot_jax.cli import launching
from pivot_jax.cli.options import command, count, positive, workdir
from pivot_jax.launch.options import GRACE_S, OF_TARGETS, RESTARTS, TARGETS, option

DETAILS = """\
Nodes and devices are those of the config's hardware and parallel; what cannot work there is an error. Nothing is
submitted: the command that does it is printed. docs/guides/launch.md has an example for every target."""
# Of each option that only some targets read: what it is, and how argparse takes it.
WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "per": ("one process for each node (the default) or each GPU", {"choices": ("node", "gpu")}),
    "venv": ("Python environment on the machines (default .venv in --chdir's default)", {"metavar": "DIR"}),
    "setup": ("file with shell commands that the machines run first: modules, mounts", {"metavar": "FILE"}),
    "array": ("a job array over values of a key, such as seed 0 1 2; each has a folder in the workdir",
              {"metavar": ("KEY", "VALUE"), "nargs": "+"}),
    "sbatch": ("options of sbatch, such as partition=gpu account=lab time=12:00:00",
               {"metavar": "NAME=VALUE", "nargs": "+"}),
    "image": ("container image, as launch/docker makes it", {"metavar": "NAME"}),
    "queue": ("LocalQueue of Kueue; '' for a cluster without Kueue", {"metavar": "NAME"}),
    "namespace": ("namespace (default: that of kubectl)", {"metavar": "NAME"}),
    "claim": ("volume that holds the workdir: a PersistentVolumeClaim and where it is mounted",
              {"metavar": "NAME:/MOUNT"}),
    "service_account": ("service account that may read and write the bucket", {"metavar": "NAME"}),
    "restarts": (f"failures after which it is started again (default {RESTARTS}); stops by a signal do not count",
                 {"metavar": "N", "type": count}),
    "zone": ("zone of the TPU", {"metavar": "NAME"}),
    "project": ("project of Google Cloud (default: that of gcloud)", {"metavar": "NAME"}),
    "spot": ("machines that may be taken away", {"action": "store_true", "default": None}),
    "hosts": ("the machines, in the order of their process ids; the first one is the coordinator",
              {"metavar": "HOST", "nargs": "+"}),
}  # fmt: skip


def add(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = command(
        subparsers, "launch", launching.launch,
        "write what a scheduler needs to train a config: SLURM, GKE, TPU queued resources, SkyPilot, ssh", DETAILS,
    )  # fmt: skip
    parser.add_argument("--to", choices=TARGETS, required=True, help="what runs it")
    parser.add_argument("--config", metavar="FILE[:ARG]", required=True, help="as for train, with --config.KEY=VALUE")
    parser.set_defaults(takes_overrides=True)
    workdir(parser, "folder of the run: one that all machines share, or gs://BUCKET/FOLDER")
    parser.add_argument("--out", metavar="DIR", default="", help="folder for the files")
    parser.add_argument("--dry-run", action="store_true", help="print the files and the command, and write nothing")
    parser.add_argument(
        "--topology", metavar="NAME", default="",
        help="hardware, such as h100-8x4 (4 nodes) or v5e-16 (default: the first of the config's that the target has)",
    )  # fmt: skip
    parser.add_argument("--name", default="", help="name of the job (default: from the config)")
    parser.add_argument(
        "--grace", metavar="S", type=positive, default=GRACE_S,
        help=f"seconds from a signal to the end, for a checkpoint (default {GRACE_S})",
    )  # fmt: skip
    parser.add_argument(
        "--chdir", metavar="DIR", default="",
        help="folder on the machines where relative paths of the config start (default: this one, or the bucket)",
    )  # fmt: skip
    for key, (words, how) in WORDS.items():
        if how.get("nargs"):
            how = {"default": (), **how}
        parser.add_argument(option(key), help=f"{', '.join(OF_TARGETS[key])}: {words}", **how)
