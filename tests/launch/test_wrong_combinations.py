"""Launches that cannot work: one line that names the option or key, and the fix."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from tests.tiny.launches import BUCKET, GIVEN, launched

DPO, MAYE = "pivot/stage2_dpo.py", "maye/mm_math5k.py"


class Wrong(NamedTuple):
    id: str
    to: str
    says: tuple[str, ...]
    options: dict[str, Any]
    keys: dict[str, Any]
    spec: str


def wrong(
    name: str, to: str, /, *says: str, keys: dict[str, Any] | None = None, spec: str = DPO, **options: Any
) -> Wrong:
    return Wrong(name, to, says, options, keys or {}, spec)


VLLM = {"rl.engine": "vllm", "rl.vllm.urls": ("http://h:8000",)}
SOURCE = {"format": "mmpr", "path": "/home/me/MMPR/meta.json"}
HARDWARE = [
    wrong("no-hardware", "slurm", "hardware: empty", "--topology h100-8", keys={"hardware": ()}),
    wrong("unknown-hardware", "slurm", "topology 'mi300-8' is unknown", "h200", topology="mi300-8"),
    wrong("no-such-slice", "gke", "topology 'v5e-12' does not exist", "v5e-16", topology="v5e-12"),
    wrong("nine-gpus", "ssh", "a machine has 1 to 8 GPUs; write h100-8xN", topology="h100-9"),
    wrong("tpu-on-slurm", "slurm", "--topology: v5p-16 is a TPU", "--topology h100-8", topology="v5p-16"),
    wrong("tpu-only-config-on-slurm", "slurm", "hardware: v5p-16 is a TPU", keys={"hardware": ("v5p-16",)}),
    wrong("tpu-on-ssh", "ssh", "v5p-16 is a TPU", topology="v5p-16"),
    wrong("gpu-as-queued-resource", "tpu", "h100-8 is no TPU", "v5e-16", topology="h100-8"),
    wrong("7x-as-queued-resource", "tpu", "7x-8 is to be had on GKE only (--to gke)", topology="7x-8"),
    wrong("gpu-that-gke-lacks", "gke", "gh200-1 is not among GKE's machines", topology="gh200-1"),
    wrong("slices-of-one-host-on-gke", "gke", "v6e-8x2 is several slices of one host each", topology="v6e-8x2"),
    wrong("unknown-to-skypilot", "skypilot", "7x-8 is unknown to SkyPilot", topology="7x-8"),
    wrong("seven-gpus-on-skypilot", "skypilot", "h100-7 has 7 GPUs", "machines of 1, 2, 4, 8", topology="h100-7"),
    wrong("slices-on-skypilot", "skypilot", "v6e-16x2 is several slices", "--to gke and tpu do", topology="v6e-16x2"),
]  # fmt: skip
FITS = [
    wrong("mesh-of-other-devices", "slurm", "h200-8 (8 devices)", "parallel.fsdp=16", "product is not 8",
          keys={"parallel.fsdp": 16}),
    wrong("slices-that-split-no-axis", "tpu", "2 slices, and neither parallel.data=1 nor parallel.fsdp=1",
          topology="v6e-16x2", keys={"parallel.fsdp": 1, "parallel.tensor": 32}),
    wrong("mesh-does-not-divide-the-batch", "slurm", "data.batch_size is 12, not a multiple of", "fsdp = 8",
          keys={"data.batch_size": 12}),
    wrong("mesh-does-not-divide-a-micro-batch", "slurm", "data.batch_size / train.accumulate is 8, not a multiple of",
          topology="h200-8x2", keys={"data.batch_size": 16, "train.accumulate": 2}),
    wrong("processes-do-not-divide-prompts", "slurm", "1024 prompts are not a multiple of", "32 x 3 processes",
          topology="h100-8x3", spec=MAYE),
    wrong("tensor-over-processes", "slurm", "parallel.data x parallel.fsdp is 2, not a multiple of the 4 processes",
          "parallel.tensor", topology="h200-8x4", keys={"parallel.fsdp": 2, "parallel.tensor": 16}),
    wrong("vllm-over-processes", "slurm", "rl.engine: this job has 2 processes", "single host", topology="h100-8x2",
          spec=MAYE, keys=VLLM),
    wrong("vllm-per-gpu", "slurm", "rl.engine: this job has 8 processes", per="gpu", spec=MAYE, keys=VLLM),
]  # fmt: skip
FOLDERS = [
    wrong("relative-workdir", "slurm", "--workdir runs/x: a relative path", workdir="runs/x"),
    wrong("workdir-in-tmp", "slurm", "--workdir /tmp/x: every machine has its own", workdir="/tmp/x"),
    wrong("workdir-in-tmp-of-hosts", "ssh", "--workdir /tmp/x: every machine has its own", workdir="/tmp/x",
          hosts=("a", "b"), topology="h200-8x2"),
    wrong("bucket-on-slurm", "slurm", "--to slurm cannot mount gs:// buckets", "absolute path", workdir=BUCKET),
    wrong("s3-on-gke", "gke", "--to gke cannot mount s3:// buckets; write gs://BUCKET/FOLDER", workdir="s3://lab/x"),
    wrong("no-bucket-on-gke", "gke", "--workdir /data/x", "gs://BUCKET/FOLDER, or add --claim NAME:/MOUNT",
          workdir="/data/x"),
    wrong("no-bucket-on-skypilot", "skypilot", "write gs://BUCKET/FOLDER or s3://BUCKET/FOLDER", workdir="/data/x"),
    wrong("no-bucket-on-tpu", "tpu", "new machines do not have it", "--setup that mounts", workdir="/nfs/x"),
    wrong("relative-on-tpu", "tpu", "--workdir runs/x: a relative path", workdir="runs/x"),
    wrong("whole-bucket", "gke", "name a folder in the bucket, such as gs://lab/runs/dpo", workdir="gs://lab/"),
    wrong("out-of-the-bucket", "tpu", "name a folder in the bucket", workdir="gs://lab/../x"),
    wrong("no-bucket-name", "tpu", "'La_B' is not the name of a bucket", workdir="gs://La_B/x"),
    wrong("odd-folder", "gke", "only letters, digits and", workdir="gs://lab/$(x)"),
    wrong("outside-the-volume", "gke", "not in the volume that is mounted at /data", workdir="/x/y", claim="nfs:/data"),
    wrong("no-mount", "gke", "--claim nfs: write NAME:/MOUNT", workdir="/data/x", claim="nfs"),
    wrong("claim-and-bucket", "gke", "--claim: --workdir is in a bucket already", claim="nfs:/data"),
    wrong("data-out-of-the-bucket", "gke", "data.sources.0.path: /home/me/MMPR/meta.json is not in gs://lab-bucket",
          "relative to /mnt/lab-bucket", keys={"data.sources": (SOURCE,)}),
    wrong("init-above-the-bucket", "tpu", "init.: ../stage1b is not in gs://lab-bucket",
          keys={"init": {"": "run:../stage1b"}}),
    wrong("tokenizer-out-of-the-volume", "gke", "tokenizer.path: /x/tok is not in the volume of nfs",
          workdir="/data/x", claim="nfs:/data", keys={"tokenizer.path": "/x/tok"}),
    wrong("variable-not-set", "slurm", "tokenizer.path: '$NOT_SET_HERE/tok'", "NOT_SET_HERE is not set",
          keys={"tokenizer.path": "$NOT_SET_HERE/tok"}),
    wrong("relative-chdir", "slurm", "--chdir data: write the absolute path", chdir="data"),
    wrong("relative-venv", "ssh", "--venv .venv: write the absolute path", venv=".venv"),
]  # fmt: skip
OPTIONS = [
    wrong("option-of-another-target", "slurm", "--hosts: --to slurm has no use for it (it is of ssh)", hosts=("a",)),
    wrong("gpu-option-on-tpu", "tpu", "--per: --to tpu has no use for it (it is of slurm, ssh)", per="gpu"),
    wrong("array-on-gke", "gke", "--array: --to gke has no use for it (it is of slurm)", array=("seed", "0", "1")),
    wrong("no-image", "gke", "--image: --to gke needs it", "launch/docker", image=None),
    wrong("no-queue", "gke", "--queue: --to gke needs it", "--queue ''", queue=None),
    wrong("no-zone", "tpu", "--zone: --to tpu needs it", zone=None),
    wrong("no-hosts", "ssh", "--hosts: --to ssh needs it", hosts=()),
    wrong("fewer-hosts", "ssh", "--hosts: 1 host, but h200-8x2: 2 nodes", "--topology h200-8", topology="h200-8x2"),
    wrong("more-hosts", "ssh", "--hosts: 2 hosts, but h200-8: 1 node", "--topology h200-8x2", hosts=("a", "b")),
    wrong("host-twice", "ssh", "a host is repeated", hosts=("a", "a"), topology="h200-8x2"),
    wrong("host-as-an-option", "ssh", "--hosts -oProxyCommand=x: not a host", hosts=("-oProxyCommand=x",)),
    wrong("host-with-a-command", "ssh", "--hosts a;reboot: not a host", hosts=("a;reboot",)),
    wrong("control-character", "slurm", "--workdir: '/shared/x\\n#SBATCH --uid=0' holds a control character",
          workdir="/shared/x\n#SBATCH --uid=0"),
    wrong("long-name", "gke", "--name", "lower-case letters", name="x" * 41),
    wrong("upper-case-name", "gke", "--name DPO: write lower-case letters", name="DPO"),
    wrong("image-with-a-space", "skypilot", "--image my image: not the name of a container image", image="my image"),
    wrong("queue-no-name", "gke", "--queue a/b: not a name of Kubernetes", queue="a/b"),
    wrong("zone-no-name", "tpu", "--zone us east: not a name that gcloud takes", zone="us east"),
    wrong("no-setup", "slurm", "--setup /none.sh: there is no such file", setup="/none.sh"),
    wrong("nodes-by-hand", "slurm", "--sbatch nodes=2: 'nodes' follows from the config", sbatch=("nodes=2",)),
    wrong("odd-sbatch-value", "slurm", "write an option of sbatch as NAME=VALUE", sbatch=("comment=a b",)),
    wrong("array-of-one", "slurm", "--array seed 0: write a key and two or more", array=("seed", "0")),
    wrong("array-twice-the-same", "slurm", "two or more different values", array=("seed", "0", "0")),
    wrong("array-of-no-key", "slurm", "sed: unknown key; did you mean 'seed'?", array=("sed", "0", "1")),
    wrong("array-of-a-wrong-value", "slurm", "seed: 'a' (str) is not allowed", array=("seed", "0", "a")),
    wrong("array-that-does-not-fit", "slurm", "data.batch_size / train.accumulate is 12",
          array=("data.batch_size", "24", "32")),
]  # fmt: skip
CASES = [*HARDWARE, *FITS, *FOLDERS, *OPTIONS]


@pytest.mark.parametrize("one", CASES, ids=[one.id for one in CASES])
def test_it_is_one_line_with_the_fix(one):
    with pytest.raises(UserError) as raised:
        launched(one.to, one.spec, one.keys, **one.options)
    message = str(raised.value)
    assert "\n" not in message and all(words in message for words in one.says), message


def test_the_command_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["launch", "--to", "slurm", "--config", DPO, "--workdir", "runs/x", "--out", str(out)]
    assert cli.main(words) == 1
    assert (
        capsys.readouterr().err.startswith("pivot-jax launch: --workdir runs/x: a relative path") and not out.exists()
    )


def test_every_target_is_given_what_it_needs():
    """The wrong cases above differ from launches that work."""
    for to in GIVEN:
        assert launched(to).contents
