"""Images of classes, from what data sets of classification come as.

* class folders: ``DIR/{train,val,test}/CLASS/*.jpg|png`` (ImageNet's layout too);
* a TFDS data set (ArrayRecord): its folder, the one with dataset_info.json, with columns ``image`` and ``label``;
* Parquet, or ``datasets.save_to_disk``: a folder with splits, with columns ``image`` (or ``img``) and ``label``.

Without ``val``, a fifth of ``train`` is set aside for it, so nothing is ever chosen on the reported images. Without
``test``, ``val`` (or ``validation``) is what is reported: ImageNet publishes no labels of its test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pivot_jax.data.sources.base import Source
from pivot_jax.data.sources.rows import Rows, need, open_rows
from pivot_jax.data.sources.tfds import tfds
from pivot_jax.errors import RowError, UserError
from pivot_jax.probe.splits import LabelledImages, with_val
from pivot_jax.words import counted

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NAMES = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
IMAGE, LABEL = ("image", "img"), ("label", "fine_label")
LAYOUTS = "class folders (train/CLASS/*.jpg), a TFDS data set (dataset_info.json) or a folder of .parquet splits"


def classification(root: str | Path, seed: int = 0) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """Splits ``train``, ``val``, ``test``, and the class names: folders' names, or labels as text.

    Raises:
      UserError: none of these layouts, a split that is missing, or a class that only another split has.
    """
    folder = Path(root)
    if (folder / "dataset_info.json").is_file() and not (folder / "state.json").is_file():
        found = _of_tables({name: _tfds(folder, words) for name, words in NAMES.items()}, folder)
    elif _has_tables(folder):
        found = _of_tables({name: _rows(folder, words) for name, words in NAMES.items()}, folder)
    else:
        found = _of_folders(folder)
    splits, names = found
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    if "test" not in splits:
        raise UserError(f"no folder '{folder / 'test'}', nor val; the data need {folder}/train and {folder}/test")
    if len(names) < 2:
        raise UserError(f"{folder}: {counted(len(names), 'class', 'classes')}; a probe needs two or more ({LAYOUTS})")
    return with_val(splits, seed), names


def _of_folders(folder: Path) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    train = folder / "train"
    if not train.is_dir():
        raise UserError(f"no folder '{train}'; the data need {folder}/train and {folder}/test: {LAYOUTS}")
    names = tuple(sorted(path.name for path in train.iterdir() if path.is_dir()))
    splits = {}
    for split, words in NAMES.items():
        here = next((folder / word for word in words if (folder / word).is_dir()), None)
        if here is None:
            continue
        strange = sorted(path.name for path in here.iterdir() if path.is_dir() and path.name not in names)
        if strange:
            raise UserError(f"{here}: class '{strange[0]}' is not in {train}")
        found = [(path, index) for index, name in enumerate(names) for path in images_in(here / name)]
        if not found and len(names) > 1:
            raise UserError(f"{here}: no images ({', '.join(SUFFIXES)})")
        splits[split] = LabelledImages(tuple(path for path, _ in found), tuple(label for _, label in found))
    return splits, names


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


class _Column(Sequence[Any]):
    """The images of a table's rows, read one by one."""

    def __init__(self, table: Rows | Source, read: Any):
        self._table, self._read = table, read

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):  # some readers do not say so, and iteration ends here
            raise IndexError(index)
        return self._read(self._table[int(index)])


def _of_tables(
    tables: dict[str, tuple[Any, Any, Any] | None], folder: Path
) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """Of (table, image of a row, label of a row) per split."""
    there = {split: found for split, found in tables.items() if found is not None}
    if "train" not in there:
        raise UserError(f"{folder}: no split 'train'; a probe needs one to fit ({LAYOUTS})")
    try:
        labels = {split: [label(table[i]) for i in range(len(table))] for split, (table, _, label) in there.items()}
    except RowError as error:
        raise UserError(f"{folder}: {error}; columns 'image' and 'label' are needed") from None
    known = sorted(
        set(labels["train"]), key=lambda label: (not label.isdigit(), int(label) if label.isdigit() else 0, label)
    )
    number = {name: index for index, name in enumerate(known)}
    splits = {}
    for split, (table, image, _) in there.items():
        if strange := sorted(set(labels[split]) - set(number)):
            raise UserError(f"{folder}: class '{strange[0]}' of split '{split}' is not in its train split")
        own = [number[label] for label in labels[split]]
        splits[split] = LabelledImages(_Column(table, image), own, f"{table.fingerprint}|image")
    return splits, tuple(known)


def _tfds(folder: Path, words: tuple[str, ...]) -> tuple[Any, Any, Any] | None:
    """A split by one of its names; None where there is none. The label is read as the image's caption."""
    reason: UserError | None = None
    for word in words:
        try:
            source = tfds(str(folder), split=word, fields={"image": "image", "caption": "label"})
        except UserError as error:
            if "column" in str(error):
                raise
            reason = error
            continue
        return source, lambda example: example.images[0], lambda example: example.messages[-1].content
    if words == NAMES["train"] and reason is not None:
        raise reason
    return None


def _has_tables(folder: Path) -> bool:
    names = ("state.json", "dataset_dict.json")
    return (
        any((folder / name).is_file() for name in names)
        or any(folder.glob("*.parquet"))
        or any(folder.glob("*/*.parquet"))
    )


def _rows(folder: Path, words: tuple[str, ...]) -> tuple[Any, Any, Any] | None:
    reason: UserError | None = None
    for word in words:
        try:
            rows = open_rows(folder, word)
        except UserError as error:
            reason = error
            continue
        return rows, lambda row: _value(row, IMAGE), lambda row: str(_value(row, LABEL))
    if words == NAMES["train"] and reason is not None:
        raise reason
    return None


def _value(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    key = next((key for key in keys if row.get(key) is not None), keys[0])
    return need(row, key, object, "a row")
