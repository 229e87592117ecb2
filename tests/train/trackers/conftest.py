"""The tracking libraries, offline: what they write goes to a folder of the session."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.rl.conftest import reward_file, rl_config
from tests.train.conftest import make_config, world

__all__ = ["make_config", "reward_file", "rl_config", "world"]
LIBRARIES = ("wandb", "mlflow", "trackio")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that they write to. trackio reads its variable when it is imported, so there is one for all tests."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; `make test-trackers` installs them and runs these tests")
    folder = tmp_path_factory.mktemp("libraries")
    os.environ |= {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DATA_DIR": str(folder / "wandb-data"),
        "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(folder / "wandb-config"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "mlflow-artifacts"),
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    return folder
