"""From a config and options to the files that a target takes, and the command that submits them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.launch import gke, job, skypilot, slurm, ssh, tpu
from pivot_jax.launch.job import Job
from pivot_jax.launch.options import Options

Generate = Callable[[Job], dict[str, str]]
Commands = Callable[[Job, str], list[Sequence[str]]]
TARGETS: dict[str, tuple[Generate, Commands]] = {
    "slurm": (slurm.generate, slurm.commands),
    "gke": (gke.generate, gke.commands),
    "tpu": (tpu.generate, tpu.commands),
    "skypilot": (skypilot.generate, skypilot.commands),
    "ssh": (ssh.generate, ssh.commands),
}


@dataclass(frozen=True)
class Launch:
    """What a target takes."""

    summary: str
    contents: dict[str, str]  # text of each file by its name
    job: Job

    def commands(self, folder: str) -> list[str]:
        """Commands that submit the files, once they are in ``folder``."""
        return [shlex.join(words) for words in TARGETS[self.job.options.to][1](self.job, folder)]

    def write(self, folder: Path) -> list[Path]:
        """Writes the files; a folder is replaced only if it holds nothing but what this wrote.

        Raises:
          UserError: as :func:`pivot_jax.files.whole_folder`.
        """
        with files.whole_folder(folder, overwrite=True) as partial:
            for name, text in self.contents.items():
                path = partial / name
                path.write_text(text, encoding="utf-8")
                path.chmod(0o755 if text.startswith("#!") else 0o644)
        return [folder / name for name in self.contents]


def generate(config: Any, options: Options) -> Launch:
    """Everything that a target needs to run a checked config.

    Raises:
      UserError: a combination that cannot work; the message names the options or keys, and the fix.
    """
    made = job.build(config, options)
    return Launch(made.summary(), TARGETS[options.to][0](made), made)
