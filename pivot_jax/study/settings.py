"""The demo's study, from ``configs/demo``: its settings, the stages of one seed, and the paths of their files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.config import catalogue
from pivot_jax.config.load import read_file
from pivot_jax.data.scenes import World
from pivot_jax.errors import UserError

ARMS = {"stage1": "Stage 1 only", "sft": "+ SFT", "dpo": "+ DPO", "grpo": "+ GRPO"}
POST_TRAINED = tuple(arm for arm in ARMS if arm != "stage1")
RUN_OF_ARM = {"stage1": "stage1b"} | {arm: arm for arm in POST_TRAINED}
# Stages of one seed in order: run's folder → config file and its further arguments.
STAGES = {
    "stage0": "stage0.py",
    "stage1a": "stage1a.py",
    "stage1b": "stage1b.py",
    **{arm: f"{arm}.py" for arm in POST_TRAINED},
    **{f"stage3_{arm}_projector": f"stage3_projector.py,{arm}" for arm in ARMS},
    **{f"stage3_{arm}": f"stage3.py,{arm}" for arm in ARMS},
}


@dataclass(frozen=True)
class Settings:
    """The content of ``configs/demo/study.py``, which explains it."""

    world: World
    sizes: Mapping[str, int]
    data_seed: int
    seeds: tuple[int, ...]
    vocabulary: int
    max_new_tokens: int
    segmentation_seeds: int
    map_pairs: int

    @classmethod
    def read(cls, spec: str) -> Settings:
        """Settings of a study file.

        Raises:
          UserError: unknown or missing key.
        """
        content = dict(read_file(spec))
        names = {field.name for field in dataclasses.fields(cls)}
        if names != set(content):
            odd = sorted(names.symmetric_difference(content))
            raise UserError(f"{spec}: keys {odd} are unknown or missing (expected: {', '.join(sorted(names))})")
        try:
            world = World(**content.pop("world"))
        except TypeError as error:
            raise UserError(f"{spec}: world: {error}") from None
        content["seeds"] = tuple(content["seeds"])
        return cls(world=world, **content)


def config_folder() -> Path:
    """``configs/demo`` of the working directory, or else that of the package."""
    own = Path("configs", "demo").absolute()
    return own if (own / "study.py").is_file() else catalogue.folder() / "demo"


@dataclass(frozen=True)
class Study:
    """A study in its folder: ``ROOT/{scenes, tokenizer, seed0, seed1, ...}``."""

    root: Path
    configs: Path
    settings: Settings

    @classmethod
    def open(cls, root: Path, folder: Path | None = None) -> Study:
        """The study in ``root`` with the settings in ``folder`` (default ``configs/demo``)."""
        folder = folder or config_folder()
        return cls(root, folder, Settings.read(str(folder / "study.py")))

    @property
    def data(self) -> Path:
        return self.root / "scenes" / "demo" / "1.0.0"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    def folder(self, seed: int) -> Path:
        return self.root / f"seed{seed}"

    def config(self, stage: str, seed: int) -> Any:
        """Config of one stage of one seed."""
        file, _, more = STAGES[stage].partition(",")
        arg = ",".join(filter(None, (str(self.folder(seed)), more)))
        return configs.load(f"{self.configs / file}:{arg}", {"seed": seed, "name": f"{stage}, seed {seed}"})

    def describe(self) -> str:
        """Text that is the same for two studies exactly if they compute the same numbers (apart from paths)."""
        settings = dataclasses.asdict(self.settings)
        stages = {stage: json.loads(configs.to_json(self.config(stage, 0))) for stage in STAGES}
        return json.dumps({"settings": settings, "stages": stages}, indent=1, sort_keys=True)

    def claim(self) -> None:
        """Writes ``study.json``, which says which study the folder holds.

        Raises:
          UserError: the folder's study has other settings or stages, or it holds files that are no study's.
        """
        path, text = self.root / "study.json", self.describe()
        names = sorted(entry.name for entry in self.root.iterdir()) if self.root.is_dir() else []
        if not path.exists() and (foreign := [name for name in names if not name.startswith(".")]):
            shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
            raise UserError(f"{self.root} holds files that no study wrote ({shown}); name a new or an empty folder")
        if path.exists() and path.read_text() != text:
            raise UserError(f"{self.root} holds a study with other settings; choose another --workdir or delete it")
        files.write_text(path, text)
