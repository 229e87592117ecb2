"""Any prepared TFDS data set, read by random access without TensorFlow (ArrayRecord files)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import ImageRoot, Source, rooted, with_images
from pivot_jax.data.sources.llava import conversation_example, preference_example
from pivot_jax.errors import RowError, UserError

# Roles of a column. A role that ``fields`` does not name is the column of its own name, if there is one.
ROLES = ("id", "image", "images", "conversations", "prompt", "answer", "chosen", "rejected", "caption")


def tfds(
    path: str = "",
    name: str = "",
    data_dir: str | None = None,
    split: str = "train",
    fields: Mapping[str, str] | None = None,
    image_root: str | ImageRoot | None = None,
) -> Source:
    """A prepared data set, from its folder (``path``, the one with dataset_info.json) or by ``name`` and ``data_dir``.

    Args:
      fields: role → column, such as ``{"prompt": "question", "answer": "label_text"}``; roles are :data:`ROLES`.
      image_root: where the images are, if a column has their paths; default: the data set's folder.

    The kind of a row follows from its columns that are not empty: ``conversations`` (LLaVA turns, may be JSON
    text), or ``prompt`` + ``chosen`` + ``rejected``, or ``prompt`` [+ ``answer``], or ``caption``. Other columns go to
    ``Example.extra``; text that holds a JSON list or object is parsed. Images stay encoded until a batch needs them.

    Raises:
      UserError: no such data set, split, role or column, or not in ArrayRecord form.
    """
    import tensorflow_datasets as library  # takes 0.3 s, so only runs that read TFDS import it

    if bool(path) == bool(name):
        raise UserError("data.sources: a tfds source needs either 'path' (folder) or 'name' (with 'data_dir')")
    try:
        builder = library.builder_from_directory(path) if path else library.builder(name, data_dir=data_dir)
        image_columns = [
            key for key, feature in builder.info.features.items() if isinstance(feature, library.features.Image)
        ]
        decoders = {key: library.decode.SkipDecoding() for key in image_columns}
        data = builder.as_data_source(split=split, decoders=decoders)
    except (ValueError, FileNotFoundError, NotImplementedError, AttributeError, library.core.DatasetNotFoundError,
            library.core.dataset_info.DatasetInfoFileError) as error:  # fmt: skip
        raise UserError(f"tfds data set {path or name!r}, split {split!r}: {str(error).splitlines()[0]}") from None
    columns = _columns(dict(fields or {}), tuple(builder.info.features), path or name)
    root = ImageRoot.of(image_root)
    fingerprint = f"{builder.data_dir}|{split}|{_stamp(builder.data_dir)}|{sorted(columns.items())}"
    fingerprint += "" if root == ImageRoot() else f"|{root}"
    root = root if root.folder is not None else replace(root, folder=str(builder.data_dir))
    return _Records(data, columns, frozenset(image_columns), f"{builder.info.name}/{split}", fingerprint, root)


def _stamp(folder: Any) -> int:
    info = Path(folder) / "dataset_info.json"
    return info.stat().st_mtime_ns if info.exists() else 0


def _columns(fields: dict[str, str], there: tuple[str, ...], where: str) -> dict[str, str]:
    for role, column in fields.items():
        if role not in ROLES:
            raise UserError(f"tfds data set {where!r}: fields names role '{role}' (allowed: {', '.join(ROLES)})")
        if column not in there:
            raise UserError(f"tfds data set {where!r}: no column '{column}' (there are: {', '.join(there)})")
    return {**{role: role for role in ROLES if role in there and role not in fields}, **fields}


class _Records:
    """Records of one split as examples."""

    def __init__(
        self,
        data: Any,
        columns: dict[str, str],
        images: frozenset[str],
        name: str,
        fingerprint: str,
        root: ImageRoot,
    ):
        self.data, self.columns, self.name, self.fingerprint, self.root = data, columns, name, fingerprint, root
        self.images = images  # columns whose bytes are never text, whatever is in them

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        record = {key: value if key in self.images else _plain(value) for key, value in self.data[index].items()}
        row = {role: record.pop(column) for role, column in self.columns.items()}
        row = {role: value for role, value in row.items() if value is not None and value not in ("", b"", [])}
        row_id = str(row.pop("id", f"{self.name}:{index}"))
        extra = {key: _parsed(value) for key, value in record.items() if value != ""}
        return _example(row, row_id, extra, self.root)


def _plain(value: Any) -> Any:
    """Bytes that are text become str; images (encoded bytes) and numbers stay."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8") if not _is_image(value) else value
        except UnicodeDecodeError:
            return value
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object:
        return [_plain(item) for item in value]
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_image(value: bytes) -> bool:
    return value[:4] in (b"\x89PNG", b"GIF8", b"RIFF") or value[:2] in (b"\xff\xd8", b"BM")


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _example(row: dict[str, Any], row_id: str, extra: dict[str, Any], root: ImageRoot) -> Example:
    extra = {**extra, **{key: _parsed(row[key]) for key in ("answer",) if key in row}}
    found = row.get("images", row.get("image"))
    if "conversations" in row:
        turns = _parsed(row["conversations"])
        example = conversation_example({"conversations": turns, "image": found}, row_id, root)
        return Example(row_id, example.messages, example.images, extra=extra)
    if "chosen" in row and "rejected" in row:
        example = preference_example({**row, "image": found}, row_id, root, question_key="prompt")
        return Example(row_id, example.messages, example.images, row["chosen"], row["rejected"], extra)
    images = rooted(found, root, row_id)
    if "prompt" in row:
        question = with_images(str(row["prompt"]), len(images))
        answer = (Message("assistant", str(row["answer"])),) if "answer" in row else ()
        return Example(row_id, (Message("user", question), *answer), images, extra=extra)
    if "caption" in row:
        turns = (Message("user", with_images("", len(images)).strip()), Message("assistant", str(row["caption"])))
        return Example(row_id, turns, images, extra=extra)
    raise RowError(row_id, f"no conversations, prompt or caption among {sorted(row)}; name the columns in 'fields'")
