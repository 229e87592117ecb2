"""Weights & Biases: a run with the optimizer's steps; offline with ``WANDB_MODE=offline``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.train.trackers.base import PROJECT, Bundle, Facts, TextTable, pixels

# What holds unless the library's environment says otherwise. The console's output is a progress bar.
SETTINGS = {"console": "off", "finish_timeout": 30.0}


class Wandb:
    """A run whose id is kept, so a resumed run continues it. The library's environment variables apply.

    W&B joins the lines of a step to a row, and takes none of a step before its last one. Only an evaluation that a
    signal postponed comes so late; its metrics are sent with those of the next line.
    """

    holds = True

    def __init__(self, facts: Facts):
        import wandb

        self._library = wandb
        _check_login(wandb)
        given = {name: value for name, value in SETTINGS.items() if f"WANDB_{name.upper()}" not in os.environ}
        self._name = facts.name
        self._first_step = facts.first_step
        self._late: dict[str, float] = {}
        self._run = wandb.init(
            project=facts.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or facts.name,
            id=os.environ.get("WANDB_RUN_ID") or facts.memory.once("id", lambda: uuid.uuid4().hex[:8]),
            dir=os.environ.get("WANDB_DIR") or str(facts.workdir),
            config={**facts.config, "workdir": str(facts.workdir.absolute())},
            allow_val_change=True,
            resume="allow",
            settings=wandb.Settings(**given),
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step < self._first_step:
            self._late |= metrics
            return
        self._run.log({**self._late, **metrics}, step=step)
        self._late = {}

    def show(self, step: int, table: TextTable) -> None:
        columns, rows = table.illustrated(lambda png: self._library.Image(pixels(png)))
        self._run.log({table.name: self._library.Table(columns=list(columns), data=rows)}, step=step)

    def keep(self, bundle: Bundle) -> None:
        """The folder as its path in the artifact's metadata: a reference would list each of its files."""
        metadata = {bundle.folder.name: str(bundle.folder.absolute())} if bundle.folder is not None else {}
        artifact = self._library.Artifact(f"{bundle.name}-{self._run.id}", type="run", metadata=metadata)
        for file in bundle.files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        if self._late:
            self._run.summary.update(self._late)
        self._run.finish(exit_code=0 if finished else 1)


def _check_login(wandb: Any) -> None:
    """Raises UserError without a key: W&B would ask for one at the terminal."""
    mode = wandb.setup().settings.mode
    if mode in ("online", "shared") and not wandb.login(prompt=False, verify=False):
        raise UserError("no login; run `wandb login`, or set WANDB_MODE=offline")
