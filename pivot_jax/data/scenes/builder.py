"""The TFDS builder of the scenes data set, its preparation, and reading it back. No TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from pivot_jax.data.scenes.draw import class_mask
from pivot_jax.data.scenes.tasks import TASKS, make_rows
from pivot_jax.data.scenes.world import World
from pivot_jax.errors import UserError

DEFAULT_SIZES = {
    "caption": 6000,
    "vqa": 8000,
    "stage3": 4000,
    "preference": 2000,
    "preference_test": 500,
    "probe_train": 1500,
    "probe_val": 500,
    "probe_test": 1000,
    "test": 1000,
}


@dataclasses.dataclass(kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
    world: World = dataclasses.field(default_factory=World)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(DEFAULT_SIZES))
    seed: int = 0


def scenes_config(world: World, sizes: Mapping[str, int] | None = None, seed: int = 0, name: str = "") -> ScenesConfig:
    """Builder config whose name is a fingerprint of everything that the images and texts depend on."""
    sizes = dict(DEFAULT_SIZES if sizes is None else sizes)
    if unknown := set(sizes) - set(TASKS):
        raise UserError(f"scenes sizes: unknown splits {sorted(unknown)}; there are {sorted(TASKS)}")
    content = json.dumps([dataclasses.asdict(world), sizes, seed], sort_keys=True)
    name = name or f"s{world.image_size}_{hashlib.sha256(content.encode()).hexdigest()[:10]}"
    return ScenesConfig(name=name, description=content, world=world, sizes=sizes, seed=seed)


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Rendered images of coloured shapes and real handwritten digits, with true and minimally wrong texts."""

    name = "scenes"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [scenes_config(World(), name="default")]
    builder_config: ScenesConfig

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.world.image_size
        text = tfds.features.Text
        features = tfds.features.FeaturesDict(
            {
                "id": text(),
                "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                "instances": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
                "things": text(),  # JSON list; instance i+1 is things[i]
                "label": tfds.features.Scalar(np.int64),  # index into tasks.label_names, -1: not one large shape
                "kind": text(),
                "conversations": text(),  # JSON in LLaVA's form, or ""
                "prompt": text(),
                "chosen": text(),
                "rejected": text(),
                "answer": text(),
                "choices": text(),  # JSON list of possible answers, or ""
            }
        )
        # Rows are random already; without TFDS's shuffle, row i of a split is the i-th that was made.
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split, n) for split, n in self.builder_config.sizes.items() if n}

    def _generate_examples(self, split: str, count: int) -> Any:
        config = self.builder_config
        yield from enumerate(make_rows(config.world, split, count, config.seed))


def prepare(
    data_dir: str | Path, world: World, sizes: Mapping[str, int] | None = None, seed: int = 0, name: str = ""
) -> str:
    """Writes the data set unless it is there; returns its folder, for ``tfds`` sources and :func:`open_split`.

    Args:
      data_dir: the folder becomes ``data_dir/scenes/NAME/1.0.0``.
      name: default is a fingerprint of world, sizes and seed.

    Raises:
      UserError: a data set of that name with another content is there already.
    """
    config = scenes_config(world, sizes, seed, name)
    with _quiet():
        builder = Scenes(data_dir=str(data_dir), config=config, file_format="array_record")
        described = Path(builder.data_dir) / "dataset_info.json"
        if described.is_file() and json.loads(described.read_text()).get("configDescription") != config.description:
            raise UserError(f"scenes: {builder.data_dir} holds another world, sizes or seed; delete it or rename")
        builder.download_and_prepare()
    return str(builder.data_dir)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS prints a banner, a bar per split and warnings without information; the demo has its own progress display."""
    level = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(level)


IMAGES = ("image", "instances")


class Split:
    """Records of a prepared split by index: dicts of bytes, numbers and, decoded, images.

    Args:
      images: decode ``image`` uint8 [s, s, 3] and ``instances`` uint8 [s, s, 1]; False leaves them out (texts only).
    """

    def __init__(self, source: Any, images: bool):
        self._source, self._images = source, images

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = dict(self._source[index])
        shown = {name: record.pop(name) for name in IMAGES}
        if self._images:
            arrays = {name: np.asarray(Image.open(io.BytesIO(encoded))) for name, encoded in shown.items()}
            record |= {"image": arrays["image"], "instances": arrays["instances"][..., None]}
        return record

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def open_split(folder: str | Path, split: str, *, images: bool = True) -> Split:
    """Random access to a prepared split's records.

    Raises:
      UserError: nothing prepared there, or no such split.
    """
    encoded = {name: tfds.decode.SkipDecoding() for name in IMAGES}
    try:
        with _quiet():
            builder = tfds.builder_from_directory(str(folder))
            return Split(builder.as_data_source(split, decoders=encoded), images)
    except (ValueError, KeyError, FileNotFoundError, tfds.core.DatasetNotFoundError) as error:
        raise UserError(f"scenes: no split '{split}' in '{folder}' ({str(error).splitlines()[0]})") from error


def things(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scene's things; pixel value i+1 of ``record["instances"]`` is the i-th."""
    return json.loads(record["things"])


@dataclasses.dataclass(frozen=True)
class ProbeSplit:
    """Images uint8 [n, s, s, 3], labels int [n] into ``label_names``, masks uint8 [n, s, s] into ``mask_names``."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def probe_split(folder: str | Path, split: str, world: World) -> ProbeSplit:
    """A split in memory, as the probes read it; masks are by shape, 0 is background."""
    records = list(open_split(folder, split))
    masks = [class_mask(world, r["instances"][..., 0], things(r)) for r in records]
    return ProbeSplit(
        np.stack([r["image"] for r in records]), np.array([int(r["label"]) for r in records]), np.stack(masks)
    )
