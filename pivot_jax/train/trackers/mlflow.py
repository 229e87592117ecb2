"""MLflow: a run at ``MLFLOW_TRACKING_URI``; without one, MLflow's default, ``mlflow.db`` in the working directory."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from pivot_jax.train.trackers.base import PROJECT, Bundle, Facts, TextTable, pixels

LONGEST = 500  # characters of a parameter, the limit of older servers; config.json among the files has all
BATCH = 100  # parameters of a request


class MLflow:
    """A run whose id is kept, so a resumed run continues it."""

    holds = False

    def __init__(self, facts: Facts):
        import mlflow

        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient()
        self._id = os.environ.get("MLFLOW_RUN_ID") or facts.memory.once("run_id", lambda: self._create(facts))
        self._client.update_run(self._id, status="RUNNING")
        known = self._client.get_run(self._id).data.params  # they cannot be changed
        params = [
            self._entities.Param(_allowed(key), value[:LONGEST])
            for key, value in _flat(facts.config).items()
            if value and _allowed(key) not in known
        ]
        for first in range(0, len(params), BATCH):
            self._client.log_batch(self._id, params=params[first : first + BATCH])

    def _create(self, facts: Facts) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if experiment is None or facts.project:
            name = facts.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"workdir": str(facts.workdir.absolute())}
        return self._client.create_run(experiment, run_name=facts.name, tags=tags).info.run_id

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        values = [self._entities.Metric(_allowed(name), float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=values)

    def show(self, step: int, table: TextTable) -> None:
        """The texts as JSON in pandas' "split" form, which MLflow shows as a table."""
        columns, rows = table.numbered()
        content = {"columns": columns, "data": rows}
        self._client.log_dict(self._id, content, f"{table.name}/{step:08d}.json")
        for index, png in enumerate(table.images):
            self._client.log_image(self._id, pixels(png), key=f"{table.name}/image/{index}", step=step)

    def keep(self, bundle: Bundle) -> None:
        for file in bundle.files:
            self._client.log_artifact(self._id, str(file))
        if bundle.folder is not None:
            self._client.set_tag(self._id, bundle.folder.name, str(bundle.folder.absolute()))

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")


def _allowed(name: str) -> str:
    """A name without the characters that MLflow rejects."""
    return re.sub(r"[^\w\-.: /]", "_", name)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key → value, as JSON where it is no text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat
