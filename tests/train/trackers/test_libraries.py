"""One run in TensorBoard, Weights & Biases, MLflow and trackio at once, offline, read back from each."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pivot_jax import config as configs
from pivot_jax.report import run as report
from pivot_jax.rl.run import run
from pivot_jax.train.trackers import table
from pivot_jax.train.trackers.base import Bundle, TextTable
from pivot_jax.train.trackers.table import TRACKERS, open_trackers
from tests.tiny import tracked
from tests.tiny.events import read as read_events
from tests.tiny.tracked import memory

pytestmark = pytest.mark.usefixtures("libraries")
ALL = tuple(TRACKERS)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """MLflow's first run makes a data base of forty tables."""
    monkeypatch.setattr(table, "PATIENCE", 300.0)
    monkeypatch.setattr(table, "HURRY", 300.0)


def png(*colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def pixel(data: bytes | Path) -> tuple[int, ...]:
    """The colour and size of an image of one colour."""
    image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB")
    assert len(set(image.get_flattened_data() if hasattr(image, "get_flattened_data") else image.getdata())) == 1
    return (*image.getpixel((0, 0)), *image.size)


def metrics(step: int) -> dict[str, float]:
    return {"loss": 1.0 / step, "rewards/math/mean": -0.25 * step, "num_tokens": 3000 * step, "odd": math.nan}


def stored(workdir: Path, project: str) -> dict[str, tracked.Stored]:
    """Metrics by tracker."""
    return {
        "tensorboard": tracked.of_tensorboard(workdir),
        "wandb": tracked.of_wandb(workdir)[0],
        "mlflow": tracked.of_mlflow(memory(workdir, "mlflow")["run_id"]),
        "trackio": tracked.of_trackio(memory(workdir, "trackio")["name"], project)[0],
    }


def same(found: tracked.Stored, expected: tracked.Stored, exact: bool = True) -> None:
    assert sorted(found) == sorted(expected)
    for step, row in expected.items():
        assert set(found[step]) == set(row), step
        for name, value in row.items():
            as_stored = value if exact else float(np.float32(value))  # TensorBoard has 32 bits
            assert found[step][name] == as_stored or (math.isnan(value) and math.isnan(found[step][name])), (step, name)


def settings(project: str, **keys: Any) -> Any:
    changes = {f"train.{key}": value for key, value in {"trackers": ALL, "tracker_project": project, **keys}.items()}
    return configs.load("", {"name": "colours", **changes})


TABLE = TextTable(
    "completions",
    ("prompt", "reward"),
    (("<b>What</b> *colour*?", "1"), ("Both?", "0.5"), ("None?", "0")),
    (png(200, 30, 30), png(30, 200, 30)),
    ((0,), (0, 1), ()),
)


def files_of(workdir: Path) -> Bundle:
    (workdir / "checkpoints").mkdir()
    (workdir / "checkpoints" / "weights").write_bytes(bytes(1 << 20))
    (workdir / "config.json").write_text('{"seed": 7}')
    return Bundle("run", (workdir / "config.json", workdir / "metrics.jsonl"), workdir / "checkpoints")


@pytest.fixture(scope="module")
def logged(libraries, tmp_path_factory) -> Path:
    """A run of five steps with an evaluation, a table with images, and files: no training behind it."""
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "PATIENCE", 300.0)
        trackers = open_trackers(settings("tables"), folder, 0)
        for step in range(1, 6):
            trackers.write(step, metrics(step))
            if step == 2:
                trackers.write(2, {"eval/colours/accuracy": 0.5})
                trackers.show(3, TABLE)
        trackers.close(True, files_of(folder))
    return folder


def test_every_tracker_has_the_metrics_of_the_log(logged):
    expected = tracked.of_log(logged)
    assert len(expected) == 5 and expected[2]["eval/colours/accuracy"] == 0.5
    for name, found in stored(logged, "tables").items():
        same(found, expected, exact=name != "tensorboard")


def test_every_tracker_has_the_config(logged):
    from mlflow import MlflowClient
    from trackio.sqlite_storage import SQLiteStorage

    records = tracked.of_wandb(logged)[1]
    (opened,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    wandb = {one.key: json.loads(one.value_json) for one in opened.config.update}
    assert wandb["train"]["tracker_project"] == "tables" and wandb["workdir"] == str(logged)
    assert (opened.project, opened.display_name, opened.run_id) == ("tables", "colours", memory(logged, "wandb")["id"])
    mlflow = MlflowClient().get_run(memory(logged, "mlflow")["run_id"])
    assert mlflow.data.params["train.tracker_project"] == "tables" and mlflow.data.params["optimizer.b2"] == "0.999"
    assert mlflow.info.run_name == "colours" and mlflow.info.status == "FINISHED"
    assert len(mlflow.data.params) > 200
    trackio = SQLiteStorage.get_run_config("tables", memory(logged, "trackio")["name"])
    assert trackio["optimizer"]["b2"] == 0.999 and trackio["workdir"] == str(logged)
    (text,) = [
        value.tensor.string_val[0].decode()
        for event in read_events(logged / "tensorboard")
        for value in event.summary.value
        if value.tag == "config/text_summary"
    ]
    assert json.loads(text.removeprefix("<pre>").removesuffix("</pre>"))["optimizer"]["b2"] == 0.999


def test_every_tracker_has_the_table_and_its_images(logged):
    red, green = (200, 30, 30, 6, 4), (30, 200, 30, 6, 4)
    prompts = ["<b>What</b> *colour*?", "Both?", "None?"]

    (event,) = [one for one in read_events(logged / "tensorboard") if any("image" in v.tag for v in one.summary.value)]
    assert event.step == 3 and [pixel(v.image.encoded_image_string) for v in event.summary.value] == [red, green]

    from mlflow import MlflowClient

    client, run_id = MlflowClient(), memory(logged, "mlflow")["run_id"]
    content = json.loads(Path(client.download_artifacts(run_id, "completions/00000003.json")).read_text())
    assert content["columns"] == ["image", "prompt", "reward"] and content["data"][1] == ["0, 1", "Both?", "0.5"]
    images = sorted(one.path for one in client.list_artifacts(run_id, "images") if one.path.endswith(".png"))
    assert [pixel(Path(client.download_artifacts(run_id, path))) for path in images] == [red, green]
    assert all("+step+3+" in path for path in images)

    from trackio.utils import MEDIA_DIR

    shown = tracked.of_trackio(memory(logged, "trackio")["name"], "tables")[1][3]["_value"]
    assert [row["prompt"] for row in shown] == prompts
    cells = [[row["image"], row["image 2"]] for row in shown]
    assert [[one and pixel(MEDIA_DIR / one["file_path"]) for one in row] for row in cells] == [
        [red, None], [red, green], [None, None],
    ]  # fmt: skip

    records = tracked.of_wandb(logged)[1]
    (at,) = [
        one.history.step.num
        for one in records
        if one.WhichOneof("record_type") == "history"
        and any(item.nested_key[:1] == ["completions"] for item in one.history.item)
    ]
    (artifact,) = [one.artifact for one in records if one.artifact.type == "run_table"]
    kept = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    content = json.loads(kept["completions.table.json"].read_text())
    assert at == 3 and content["columns"] == ["image", "image 2", "prompt", "reward"]
    assert [row[2] for row in content["data"]] == prompts
    assert [[one and pixel(kept[one["path"]]) for one in row[:2]] for row in content["data"]] == [
        [red, None], [red, green], [None, None],
    ]  # fmt: skip


def test_every_tracker_has_the_files_but_not_the_checkpoints(logged):
    from mlflow import MlflowClient
    from trackio.sqlite_storage import SQLiteStorage

    client, run_id = MlflowClient(), memory(logged, "mlflow")["run_id"]
    config = Path(client.download_artifacts(run_id, "config.json"))
    assert json.loads(config.read_text()) == {"seed": 7}
    assert client.get_run(run_id).data.tags["checkpoints"] == str(logged / "checkpoints")
    assert not any("weights" in one.path for one in client.list_artifacts(run_id))

    (artifact,) = [
        one.artifact
        for one in tracked.of_wandb(logged)[1]
        if one.artifact.name.startswith("run-") and one.artifact.type == "run"
    ]
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    assert set(entries) == {"config.json", "metrics.jsonl"}
    assert json.loads(artifact.metadata) == {"checkpoints": str(logged / "checkpoints")}
    assert Path(entries["config.json"].local_path).read_text() == '{"seed": 7}'

    name = f"run-{memory(logged, 'trackio')['name']}"
    (kept,) = [one for one in SQLiteStorage.get_artifacts("tables") if one["name"] == name]
    assert kept["type"] == "run" and kept["size_bytes"] < 1 << 16
    (texts,) = [
        [cell.decode() for cell in value.tensor.string_val]
        for event in read_events(logged / "tensorboard")
        for value in event.summary.value
        if value.tag == "files/run/text_summary"
    ]
    assert len(texts) == 4 and "checkpoints" in texts[3]


def test_a_resumed_run_is_one_run_with_every_step_once(tmp_path):
    """Killed after step 5, resumed from the checkpoint of step 3; the readers raise where a step is there twice."""
    for first, last, resumed, finished in ((1, 5, 0, False), (4, 7, 3, True)):
        trackers = open_trackers(settings("resumed"), tmp_path, resumed)
        for step in range(first, last + 1):
            trackers.write(step, metrics(step))
        trackers.close(finished)
    expected = tracked.of_log(tmp_path)
    assert sorted(expected) == list(range(1, 8))
    for name, found in stored(tmp_path, "resumed").items():
        same(found, expected, exact=name != "tensorboard")
    runs = {one.run.run_id for one in tracked.of_wandb(tmp_path)[1] if one.WhichOneof("record_type") == "run"}
    assert runs == {memory(tmp_path, "wandb")["id"]}
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("resumed").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED" and found.info.run_id == memory(tmp_path, "mlflow")["run_id"]


def test_wandb_takes_an_evaluation_that_a_signal_postponed(tmp_path):
    """W&B would reject a row of step 3 after step 3: it comes with the next row, or in the summary."""
    for first, last, resumed in ((1, 3, 0), (4, 5, 3)):
        trackers = open_trackers(settings("postponed", trackers=("wandb",)), tmp_path, resumed)
        if resumed:
            trackers.write(3, {"eval/a": 0.5})
        for step in range(first, last + 1):
            trackers.write(step, {"loss": float(step)})
        trackers.close(False)
    found = tracked.of_wandb(tmp_path)[0]
    assert found == {
        1: {"loss": 1.0},
        2: {"loss": 2.0},
        3: {"loss": 3.0},
        4: {"eval/a": 0.5, "loss": 4.0},
        5: {"loss": 5.0},
    }


def test_a_training_run_in_all_four(rl_config, tmp_path):
    """GRPO with tables of completions, an interrupted half and a resumed one, then its page as a file."""
    config = rl_config(
        rl__show_every=2, train__trackers=ALL, train__tracker_project="trained", train__steps=4, name="letters"
    )
    workdir = tmp_path / "run"
    run(config, workdir)
    expected = tracked.of_log(workdir)
    assert sorted(expected) == [1, 2, 3, 4] and expected[4]["rewards/count/mean"] >= 0
    for name, found in stored(workdir, "trained").items():
        same(found, expected, exact=name != "tensorboard")
    shown = tracked.of_trackio(memory(workdir, "trackio")["name"], "trained")[1]
    assert sorted(shown) == [1, 3] and len(shown[1]["_value"]) == 16
    lines = [json.loads(line) for line in (workdir / "completions/000002.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in shown[3]["_value"]] == [line["completion"] for line in lines]

    from mlflow import MlflowClient

    client, run_id = MlflowClient(), memory(workdir, "mlflow")["run_id"]
    kept = json.loads(Path(client.download_artifacts(run_id, "config.json")).read_text())
    assert kept == json.loads((workdir / "config.json").read_text())
    report.track(workdir, report.write(workdir, workdir / "report.html"))
    page = Path(client.download_artifacts(run_id, "report.html")).read_bytes()
    assert page == (workdir / "report.html").read_bytes()
    for name, found in stored(workdir, "trained").items():  # nothing is sent again
        same(found, expected, exact=name != "tensorboard")
