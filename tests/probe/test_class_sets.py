"""Images of classes: class folders, Parquet and TFDS; what chooses, what is reported, and bad input."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from pivot_jax.errors import UserError
from pivot_jax.probe import class_sets
from tests.probe.conftest import image_file


@pytest.fixture
def classes(tmp_path):
    for split, count in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                image_file(tmp_path / split / name / f"{i:02}.png")
    return tmp_path


def test_val_is_set_aside_from_train(classes):
    splits, names = class_sets.classification(classes)
    assert names == ("cat", "dog")
    assert [len(splits[s]) for s in ("train", "val", "test")] == [16, 4, 4]
    assert not set(splits["train"].images) & set(splits["val"].images)
    assert all(
        path.parent.name == names[label]
        for s in splits.values()
        for path, label in zip(s.images, s.labels, strict=True)
    )
    assert splits["train"].whole is splits["val"].whole and len(splits["train"].whole) == 20
    again, other = class_sets.classification(classes), class_sets.classification(classes, seed=1)
    assert again[0]["val"].images == splits["val"].images != other[0]["val"].images


def test_imagenet_has_no_test_labels_so_val_is_reported(classes):
    (classes / "test").rename(classes / "val")
    splits, _ = class_sets.classification(classes)
    assert {path.parent.parent.name for path in splits["test"].images} == {"val"}
    assert {path.parent.parent.name for path in splits["val"].images} == {"train"}


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_parquet_splits(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split, count in (("train", 12), ("validation", 4)):
        rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 3} for i in range(count)]
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / f"{split}-00000-of-00001.parquet")
    splits, names = class_sets.classification(tmp_path)
    assert names == ("0", "1", "2") and list(splits["test"].labels) == [0, 1, 2, 0]
    assert splits["test"].images[3]["bytes"] == png(3) and len(splits["train"]) + len(splits["val"]) == 12
    assert splits["train"].whole.fingerprint
    rows = [{"image": {"bytes": png(0), "path": None}, "label": 7}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "validation-00000-of-00001.parquet")
    with pytest.raises(UserError, match="class '7' of split 'val' is not in its train split"):
        class_sets.classification(tmp_path)
    parquet.write_table(arrow.Table.from_pylist([{"image": "a.png"}]), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="field 'label' is missing .*columns 'image' and 'label' are needed"):
        class_sets.classification(tmp_path)


def test_tfds(tmp_path):
    library = pytest.importorskip("tensorflow_datasets")
    sizes = {"train": 9, "test": 3}

    class Tiny(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            image, label = library.features.Image(shape=(None, None, 3)), library.features.ClassLabel(num_classes=3)
            columns = library.features.FeaturesDict({"image": image, "label": label})
            return library.core.DatasetInfo(builder=self, features=columns)

        def _split_generators(self, manager):
            return {split: self._generate_examples(count) for split, count in sizes.items()}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": io.BytesIO(png(i)), "label": i % 3}

    builder = Tiny(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    splits, names = class_sets.classification(str(builder.data_dir))
    assert names == ("0", "1", "2") and sorted(splits["test"].labels) == [0, 1, 2]
    assert len(splits["train"]) == 7 and len(splits["val"]) == 2
    for split in splits.values():
        for image, label in zip(split.images, split.labels, strict=True):
            assert int(np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0]) % 3 == label


def test_bad_folders(classes, tmp_path):
    with pytest.raises(UserError, match="no folder '.*train'"):
        class_sets.classification(tmp_path / "none")
    image_file(classes / "test" / "cow" / "0.png")
    with pytest.raises(UserError, match="class 'cow' is not in"):
        class_sets.classification(classes)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dataset_info.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="tfds data set"):
        class_sets.classification(tmp_path / "other")


def test_a_split_is_missing(tmp_path):
    for name in ("cat", "dog"):
        image_file(tmp_path / "train" / name / "0.png")
    with pytest.raises(UserError, match="no folder '.*test', nor val"):
        class_sets.classification(tmp_path)
