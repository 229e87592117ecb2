"""Folders of a data set: which of their files belong to which configuration and split.

The layouts are those of the hub, as ``hf download --repo-type dataset`` copies them: the ``configs`` in the head of
README.md, or else the files' own paths, ``[data/]SPLIT-00000-of-00002.parquet``, ``CONFIG/SPLIT-….parquet`` and
``CONFIG/SPLIT/0000.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pivot_jax.data.sources.tables import RowGroups, TableRows, from_parquet, from_saved
from pivot_jax.errors import UserError, suggest

DEFAULT = "default"  # the configuration that the hub takes where none is named
Layout = dict[str, dict[str, list[Path]]]  # configuration → split → its files


def from_folder(path: Path, split: str = "", config: str = "") -> TableRows | RowGroups:
    """The rows of one split; of a folder with one configuration or one split, that need not be named.

    Raises:
      UserError: no data set in the folder, no such configuration or split, or several of them and none is named.
    """
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _saved(path, split, config)
    layout = _card(path) or _files(path)
    if not layout:
        raise UserError(
            f"{path}: a folder, but neither a data set written by datasets.save_to_disk (no state.json) nor one with "
            ".parquet files"
        )
    config = chosen_config(str(path), config, split, layout)
    own = "" if config == DEFAULT else f"/{config}"
    split = chosen_split(f"{path}{own}", split, layout[config])
    return from_parquet(layout[config][split], f"{path.name}{own}/{split}")


def configurations(path: Path) -> list[str]:
    """Names of the configurations of a folder of Parquet files; [] where there are none, or it is of another kind."""
    return sorted(_card(path) or _files(path))


def _saved(path: Path, split: str, config: str) -> TableRows:
    if config:
        raise UserError(
            f"{path}: written by datasets.save_to_disk, so there is no configuration '{config}'; leave it out"
        )
    if (path / "state.json").is_file():
        if split:
            raise UserError(f"{path}: one data set without splits, so there is no '{split}'; leave 'split' out")
        return from_saved(path)
    parts = {part.parent.name: part.parent for part in path.glob("*/state.json")}
    return from_saved(parts[chosen_split(str(path), split, parts)])


def chosen_config(where: str, config: str, split: str, layout: Mapping[str, Iterable[str]]) -> str:
    """The configuration that is named, or the only one (with the split, if that is named), or the default one.

    Args:
      layout: configuration → its splits.

    Raises:
      UserError: there is no such configuration, or there are several; the message names them.
    """
    names = ", ".join(sorted(layout))
    if config:
        if config not in layout:
            raise UserError(f"{where}: no configuration '{config}' (there are: {names}){suggest(config, layout)}")
        return config
    fitting = [name for name, splits in layout.items() if not split or split in splits] or list(layout)
    if DEFAULT in fitting or len(fitting) == 1:
        return DEFAULT if DEFAULT in fitting else fitting[0]
    fix = f"name one, such as {where}/{min(fitting)}" if Path(where, min(fitting)).is_dir() else "name one as 'config'"
    raise UserError(f"{where}: holds the configurations {', '.join(sorted(fitting))}; {fix}")


def chosen_split(where: str, split: str, known: Iterable[str], fix: str = "name one as 'split' in data.sources") -> str:
    """The split that is named, or the only one. Raises UserError as :func:`chosen_config`, with ``fix`` at its end."""
    names = sorted(known)
    if split:
        if split not in names:
            raise UserError(f"{where}: no split '{split}' (there are: {', '.join(names)}){suggest(split, names)}")
        return split
    if len(names) != 1:
        raise UserError(f"{where}: holds the splits {', '.join(names)}; {fix}")
    return names[0]


def _files(path: Path) -> Layout:
    """By the paths of the files."""
    layout: Layout = {}
    for file in sorted(found for depth in ("", "*/", "*/*/") for found in path.glob(f"{depth}*.parquet")):
        parents = [part for part in file.relative_to(path).parts[:-1] if part != "data"]
        split = file.stem.partition("-")[0]  # train-00000-of-00004
        if split.isdigit():
            split = parents.pop() if parents else file.parent.name
        config = "/".join(part for part in parents if part != DEFAULT) or DEFAULT
        layout.setdefault(config, {}).setdefault(split, []).append(file)
    return layout


def _card(path: Path) -> Layout:
    """By the data set's card; {} where it says nothing about Parquet files that are here."""
    layout: Layout = {}
    for entry in _card_configs(path / "README.md"):
        if isinstance(entry, Mapping) and isinstance(name := entry.get("config_name"), str):
            for split, patterns in _patterns(entry.get("data_files")):
                if files := sorted({file for pattern in patterns for file in _matches(path, pattern)}):
                    layout.setdefault(name, {})[split] = files
    return layout


def _card_configs(card: Path) -> list[Any]:
    try:
        head, mark, _ = card.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---")
        front = yaml.safe_load(head) if mark else None
    except (OSError, ValueError, yaml.YAMLError):  # a card is optional, and written for people
        return []
    configs = front.get("configs") if isinstance(front, dict) else None
    return configs if isinstance(configs, list) else []


def _patterns(data_files: Any) -> list[tuple[str, list[str]]]:
    """(split, patterns of its files); files that are listed without a split are those of ``train``, as on the hub."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    if all(isinstance(entry, str) for entry in entries):
        return [("train", entries)]
    found = []
    for entry in entries:
        if isinstance(entry, Mapping) and isinstance(entry.get("split"), str):
            paths = entry.get("path")
            found.append((entry["split"], [str(one) for one in (paths if isinstance(paths, list) else [paths])]))
    return found


def _matches(path: Path, pattern: str) -> list[Path]:
    """Files in the folder; a card comes from somebody else, and names none outside it."""
    if not pattern.endswith(".parquet") or pattern.startswith("/") or ".." in Path(pattern).parts:
        return []
    return [file for file in path.glob(pattern) if file.is_file()]
