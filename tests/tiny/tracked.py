"""What trackers stored of a run, read back from their files: by the libraries themselves where they read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.tiny.events import read as read_events

Stored = dict[int, dict[str, float]]  # step → its metrics


def of_tensorboard(workdir: Path) -> Stored:
    """What TensorBoard shows: a later process's start hides what was written before of its steps and later ones."""
    shown: Stored = {}
    for event in read_events(workdir / "tensorboard"):
        if event.session_log.status:
            shown = {step: metrics for step, metrics in shown.items() if step < event.step}
        values = {one.tag: one.simple_value for one in event.summary.value if one.WhichOneof("value") == "simple_value"}
        if values:
            shown.setdefault(event.step, {}).update(values)
    return shown


def of_wandb(folder: Path) -> tuple[Stored, list[Any]]:
    """Metrics and all records of the offline runs in a workdir, the older ones first. Raises if a step goes back."""
    found: Stored = {}
    records = [record for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")) for record in wandb_records(file)]
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = [item for item in record.history.item if len(item.nested_key) < 2]  # the others are of a table
            row = {item.key or item.nested_key[0]: item.value_json for item in items}
            step = int(row["_step"])
            assert step > max(found, default=-1), "W&B would reject this row"
            found[step] = {name: float(value) for name, value in row.items() if name[0] != "_"}
    return {step: metrics for step, metrics in found.items() if metrics}, records


def wandb_records(file: Path) -> Iterator[Any]:
    """Records of W&B's log, which has LevelDB's format: blocks of 32 KiB with parts of records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def of_mlflow(run_id: str) -> Stored:
    """Every value that MLflow has of every metric. Raises if a step has two."""
    from mlflow import MlflowClient

    client, found = MlflowClient(), {}
    for name in client.get_run(run_id).data.metrics:
        for one in client.get_metric_history(run_id, name):
            assert name not in found.setdefault(one.step, {}), f"{name} of step {one.step} is there twice"
            found[one.step][name] = one.value
    return found


def of_trackio(name: str, project: str) -> tuple[Stored, dict[int, Any]]:
    """(metrics, tables by step). Raises if a step has a metric twice."""
    from trackio.sqlite_storage import SQLiteStorage

    found: Stored = {}
    tables = {}
    for row in SQLiteStorage.get_logs(project, name):
        step, _ = row.pop("step"), row.pop("timestamp")
        if table := row.pop("completions", None):
            tables[step] = table
        if row:
            assert not set(row) & set(found.get(step, {})), f"step {step} is there twice"
            found.setdefault(step, {}).update(row)
    return found, tables


def of_log(workdir: Path) -> Stored:
    """``metrics.jsonl``: null is NaN."""
    found: Stored = {}
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        row: Mapping[str, Any] = json.loads(text)
        values = {
            name: float("nan") if value is None else float(value) for name, value in row.items() if name != "step"
        }
        found.setdefault(row["step"], {}).update(values)
    return found


def memory(workdir: Path, name: str) -> dict[str, Any]:
    return json.loads((workdir / "trackers" / f"{name}.json").read_text())
