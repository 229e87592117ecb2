"""Questions from a benchmark's published files: its data set on the Hugging Face hub, or VLMEvalKit's TSV of it.

A family says how one row of each form becomes an :class:`Item`; everything else about the files is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.config import paths
from pivot_jax.data.sources import folders, hub
from pivot_jax.data.sources.base import ImageRoot
from pivot_jax.data.sources.delimited import DELIMITERS
from pivot_jax.data.sources.raw_files import plain_suffix
from pivot_jax.data.sources.rows import Rows, open_rows
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks import image_cells
from pivot_jax.eval.benchmarks.base import Item, Items, check_first, contents
from pivot_jax.eval.benchmarks.cells import is_missing, literal_list, row_name
from pivot_jax.eval.benchmarks.chained import Chained, column
from pivot_jax.eval.benchmarks.image_cells import TsvImages
from pivot_jax.eval.benchmarks.row import Row

Convert = Callable[[Row], Item]
Where = tuple[str, Any]  # only rows that have this value in this column
INDEX = "index"  # VLMEvalKit's column of ids


def tsv_item(row: Row) -> Item:
    """The question of a row of VLMEvalKit's TSV: image, question, hint, A, B, …, answer, category, l2-category.

    The answer is a letter where there are options, else a text, or a list of accepted texts as a Python literal. A
    file without answers (a test split) gives questions without any.

    Raises:
      RowError: no question, an image that is none, or an answer that is none of the options.
    """
    choices = row.options()
    return Item(
        row.id,
        row.text("question"),
        row.images(),
        choices=choices,
        answers=tsv_answers(row, choices),
        hint=row.optional("hint"),
        category=row.optional("category"),
        fields=row.fields("l2-category"),
    )


def tsv_answers(row: Row, choices: Sequence[str] = ()) -> tuple[str, ...]:
    """The accepted answers of a row of VLMEvalKit's TSV, as in :func:`tsv_item`."""
    answer = row.optional("answer")
    if not answer:
        return ()
    if choices:
        return (row.letter(choices, "letter"),)
    listed = literal_list(answer)
    return (answer,) if listed is None else tuple(map(str, listed))


def published(
    path: str | Path,
    family: str,
    *,
    hf: Convert | None = None,
    tsv: Convert | None = tsv_item,
    split: str | Sequence[str] = "",
    config: str | Sequence[str] = "",
    tsv_file: str = "",
    id_key: str = "",
    repeated: bool = False,
    where: Where | None = None,
) -> Items:
    """Questions of a benchmark, which are read when they are asked for.

    Args:
      path: a file of rows (parquet, jsonl, json; TSV), a folder with parquet files or the TSV, or ``hf:OWNER/NAME``.
      family: name of the benchmark, for messages.
      hf, tsv: make a row of this form a question; None: the benchmark is not published in it.
      split: taken where the path names none; "": there is only one. Several are joined in this order.
      config: taken where there are several configurations and the path names none. Several are joined in this order.
      tsv_file: name of VLMEvalKit's file (``MMBench_DEV_EN``), looked for in a folder.
      id_key: column of ids in the first form; "": the row's number from 0 is its id.
      repeated: the published rows repeat some ids: the second one becomes ``ID#2``. Else that is an error.
      where: only these rows of the first form are questions.

    Raises:
      UserError: nothing is there, no such split, an empty file, two rows with the same id, or a first row that is no
        question of the benchmark.
    """
    file = _tsv(path, tsv_file)
    convert = hf if file is None else tsv
    if convert is None:
        kind = "a data set on the hub" if file is None else "VLMEvalKit's TSV"
        raise UserError(f"{family}: {path} is of the form of {kind}, in which it is not published here; see its docs")
    rows = _open(path, family, split, config) if file is None else open_rows(file)
    root = _root(path) if file is None else ImageRoot(str(file.parent))
    key = id_key if file is None else INDEX
    check_first(rows, path, family)
    try:
        if file is None:
            items = Published(rows, convert, key, root, where=where, repeated=repeated)
        else:
            items = Published(rows, convert, key, root, tsv=True)
        if not len(items):
            only = f" with {where[0]} {where[1]}" if where else ""
            raise UserError(f"{family}: {path} has no question{only}; name the file that has them")
        items[0]
    except RowError as error:
        raise UserError(f"{family}: {error}") from None
    return items


def is_published(path: str | Path) -> bool:
    """Whether a path is of a form of :func:`published` that no other reader takes: not jsonl or json."""
    if isinstance(path, str) and path.startswith(hub.PREFIX):
        return True
    path = Path(path)
    if not path.is_dir():
        return path.suffix == ".parquet" or plain_suffix(path) in DELIMITERS
    return bool(_saved(path) or folders.configurations(path)) or any(
        plain_suffix(file) in DELIMITERS for file in path.iterdir()
    )


def _saved(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


class Published:
    """Rows of one form as questions; see :func:`published`.

    Attributes:
      ids: of all questions.
    """

    def __init__(
        self,
        rows: Rows,
        convert: Convert,
        id_key: str,
        root: ImageRoot | None,
        *,
        where: Where | None = None,
        repeated: bool = False,
        tsv: bool = False,
    ):
        self.rows, self.convert, self._id_key, self._root = rows, convert, id_key, root
        own = _ids(rows, id_key, repeated)
        kept = range(len(rows)) if where is None else np.flatnonzero(
            [value == where[1] for value in column(rows, where[0])]
        )  # fmt: skip
        self._positions = [int(position) for position in kept]
        self.ids = tuple(own[position] for position in self._positions)
        by_id = {one: position for position, one in enumerate(own)}
        self._images = TsvImages(rows, by_id, root) if tsv else None

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Item:
        position = self._positions[index]
        values = self.rows[position]
        name = row_name(values, self.rows, position, self._id_key)

        def pictures(column: str) -> tuple[Any, ...]:
            if self._images is not None:
                return self._images.of(values, position)
            return image_cells.images(values.get(column), name, self._root, column)

        return self.convert(Row(values, self.ids[index], name, pictures))


def _ids(rows: Rows, key: str, repeated: bool) -> list[str]:
    """The id of each row. Raises RowError for a row without one, or for a second row with one."""
    if not key:
        return [str(position) for position in range(len(rows))]
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    for position, value in enumerate(column(rows, key)):
        if is_missing(value):
            raise RowError(rows.location(position), f"column '{key}' is empty or missing; give each row its own id")
        own = str(value)
        counts[own] = counts.get(own, 0) + 1
        if counts[own] > 1 and repeated:
            own = f"{own}#{counts[own]}"
        if own in found:
            first = rows.location(found[own])
            raise RowError(
                rows.location(position), f"column '{key}' is {value}, as in row '{first}'; remove one of the two rows"
            )
        found[own] = position
    return list(found)


def _open(path: str | Path, family: str, split: str | Sequence[str], config: str | Sequence[str]) -> Rows:
    """Rows of the hub's form."""
    splits, wanted = ([names] if isinstance(names, str) else list(names) for names in (split, config))
    if isinstance(path, str) and path.startswith(hub.PREFIX):
        named = hub.parse(path)
        splits = [""] if named["split"] else splits
        known = None if not named["config"] else ()
    elif Path(path).is_dir():
        splits = [""] if (Path(path) / "state.json").is_file() else splits  # written by save_to_disk: there is one
        known = tuple(folders.configurations(Path(path)))
    elif Path(path).is_file():
        return open_rows(path)
    else:
        raise UserError(f"{family}: {path} does not exist{paths.nearest(Path(path), files=True) or '; name its file'}")
    if known is not None and len(known) <= 1:
        wanted = [""]
    rows = [open_rows(path, one, part) for part in wanted for one in splits]
    return rows[0] if len(rows) == 1 else Chained(rows)


def _root(path: str | Path) -> ImageRoot | None:
    """Folder of image paths; None for the hub, whose rows hold their images."""
    if isinstance(path, str) and path.startswith(hub.PREFIX):
        return None
    return ImageRoot(str(path if Path(path).is_dir() else Path(path).parent))


def _tsv(path: str | Path, name: str) -> Path | None:
    """The TSV that the path is or holds, None where it is of the other form."""
    if isinstance(path, str) and path.startswith(hub.PREFIX):
        return None
    path = Path(path)
    if not path.is_dir():
        return path if plain_suffix(path) in DELIMITERS else None
    found = [file for file in sorted(path.iterdir()) if plain_suffix(file) in DELIMITERS]
    named = [file for file in found if name and file.name.partition(".")[0] == name]
    if len(named or found) == 1:
        return (named or found)[0]
    if found and not any(path.rglob("*.parquet")):
        raise UserError(f"{path}: holds several files of questions{contents(path)}; name one")
    return None
