"""What a user says about where a config is to run, beside the config itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from pivot_jax.errors import UserError

TARGETS = ("slurm", "gke", "tpu", "skypilot", "ssh")
# Which targets read an option; those that are not here are read by all.
OF_TARGETS = {
    "per": ("slurm", "ssh"),
    "venv": ("slurm", "ssh"),
    "setup": ("slurm", "tpu", "skypilot", "ssh"),
    "array": ("slurm",),
    "sbatch": ("slurm",),
    "image": ("gke", "tpu", "skypilot"),
    "queue": ("gke",),
    "namespace": ("gke",),
    "claim": ("gke",),
    "service_account": ("gke", "tpu"),
    "restarts": ("gke", "skypilot"),
    "zone": ("tpu",),
    "project": ("tpu",),
    "spot": ("tpu", "skypilot"),
    "hosts": ("ssh",),
}
NEEDED = {"gke": ("image", "queue"), "tpu": ("image", "zone"), "skypilot": ("image",), "ssh": ("hosts",)}
GRACE_S, RESTARTS = 300, 3


@dataclass(frozen=True)
class Options:
    """The options of ``pivot-jax launch``; None and () where the user said nothing."""

    to: str
    workdir: str
    topology: str = ""
    name: str = ""
    grace: int = GRACE_S
    chdir: str = ""
    per: str | None = None
    venv: str | None = None
    setup: str | None = None
    array: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()
    image: str | None = None
    queue: str | None = None
    namespace: str | None = None
    claim: str | None = None
    service_account: str | None = None
    restarts: int | None = None
    zone: str | None = None
    project: str | None = None
    spot: bool | None = None
    hosts: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError for an option of another target, one that is missing, and for control characters."""
        for key, targets in OF_TARGETS.items():
            if self.to not in targets and getattr(self, key) not in (None, ()):
                raise UserError(
                    f"{option(key)}: --to {self.to} has no use for it (it is of {', '.join(targets)}); leave it out"
                )
        for key in NEEDED.get(self.to, ()):
            if getattr(self, key) in (None, ()):
                raise UserError(f"{option(key)}: --to {self.to} needs it; {MISSING[key]}")
        for field in fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and re.search(r"[\x00-\x1f\x7f]", text):
                    raise UserError(f"{option(field.name)}: {text!r} holds a control character; write it on one line")

    def setup_lines(self) -> str:
        """Content of the file ``setup``, or ""."""
        if self.setup is None:
            return ""
        path = Path(self.setup)
        if not path.is_file():
            raise UserError(f"--setup {self.setup}: there is no such file; name one with shell commands")
        return path.read_text(encoding="utf-8").rstrip("\n") + "\n"


MISSING = {
    "image": "name a container image that launch/docker makes, such as --image REGISTRY/pivot-jax:tpu",
    "queue": "name Kueue's LocalQueue, or write --queue '' for a cluster without Kueue",
    "zone": "name a zone that has these TPUs, such as --zone us-east5-a",
    "hosts": "name the machines in the order of their process ids, such as --hosts node1 node2",
}


def option(key: str) -> str:
    return f"--{key.replace('_', '-')}"
