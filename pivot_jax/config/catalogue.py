"""The configs that come with the package: ``configs/`` of a checkout, which a wheel holds as ``pivot_jax/configs``."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pivot_jax import files
from pivot_jax.errors import UserError, suggest

ARGUMENT = re.compile(r"^Argument: (.+)$", re.MULTILINE)  # in the docstring of a config that takes one

NAMED = re.compile(r"([\w./]+\.py)(?:$|:)")  # a config in a text of another one


@dataclass(frozen=True)
class Entry:
    """What a config says of itself, read without running it."""

    name: str  # relative to the folder, "pivot/stage1b.py"
    summary: str  # the first line of its docstring
    argument: str  # what may follow the name and a colon; "" for none


def folder() -> Path:
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """``pivot/stage1b.py``, …: every file, relative to :func:`folder`."""
    return sorted(path.relative_to(folder()).as_posix() for path in folder().rglob("*.py"))


def find(name: str) -> Path:
    """The file ``name``, or else the packaged config of that name.

    Raises:
      UserError: neither, or a folder; the message names the nearest one.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{name} is a folder; name a config file")
    if path.as_posix() in names():
        return folder() / path
    siblings = sorted(str(one) for one in path.parent.glob("*.py")) if path.parent.is_dir() else []
    raise UserError(
        f"{name}: no such config file{suggest(name, [*siblings, *names()])} (`pivot-jax configs` lists them)"
    )


def copy(name: str, to: Path) -> list[tuple[Path, str]]:
    """Writes a packaged config, or all of a folder such as ``demo``, into ``to`` with the files that it includes.

    Names stay: ``pivot/stage1b.py`` becomes ``to/pivot/stage1b.py``. An included file that is there already stays.

    Returns:
      (file, "" or why it was not written) of each.

    Raises:
      UserError: no such config, or a file of its name is there with other content; then nothing is written.
    """
    chosen = [one for one in names() if one == name or one.startswith(f"{name.rstrip('/')}/")]
    if not chosen:
        near = suggest(name, {*names(), *(one.partition("/")[0] for one in names())})
        raise UserError(f"{name}: no such config in the package{near} (`pivot-jax configs` lists them)")
    found = []
    for source in sorted({part for one in chosen for part in _parts(folder() / one)}):
        part = source.relative_to(folder()).as_posix()
        target, kept = to / part, ""
        if target.exists():
            same = target.is_file() and target.read_bytes() == source.read_bytes()
            if not same and part in chosen:
                raise UserError(
                    f"{target} exists and differs from the packaged {part}; move it away, or name another --to"
                )
            kept = "as it was" if same else "kept, with your changes"
        found.append((source, target, kept))
    for source, target, kept in found:
        if not kept:
            files.write_text(target, source.read_text(encoding="utf-8"))
    return [(target, kept) for _, target, kept in found]


def _parts(path: Path) -> set[Path]:
    """A config, and the configs beside it that its texts name: ``include(__file__, "FILE:ARG")``, a study's stages."""
    found = {path}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = NAMED.match(node.value)
            named = Path(os.path.normpath(path.parent / name[1])) if name else path
            if named not in found and named.is_file():
                found |= _parts(named)
    return found


def entries() -> list[Entry]:
    """One for each of :func:`names`."""
    found = []
    for name in names():
        text = ast.get_docstring(ast.parse((folder() / name).read_text(encoding="utf-8"))) or ""
        argument = ARGUMENT.search(text)
        found.append(Entry(name, text.partition("\n")[0], argument[1] if argument else ""))
    return found
