"""Files and rows of logs in the formats that are known, each row with the place that messages name."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pivot_jax.data.sources.rows import open_rows
from pivot_jax.errors import UserError

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]  # (place of the row, the row)
_NUMBERED = re.compile(r"(?:[A-Za-z]+[_-])*(\d+)(?:-\d+)?")  # a second number: of the process
_BLOCK = re.compile(r"\[(prompt|output|ground_truth|score)\] ?")
_NOT_REWARDS = ("step", "mode", "prompt", "completion", "advantage", "image", "images")


@dataclass(frozen=True)
class Format:
    """A format of logs.

    Attributes:
      files: the files of a log, in the order of training. rows: of a file.
      columns: field of a response → its column, or several of which the first that a row has is taken.
      marks: columns that every row has, by which the format is recognised; none: it never is.
      splits: part of a file's path → its split.
    """

    files: Callable[[Path], list[Path]]
    rows: Callable[[Path], Rows]
    columns: Mapping[str, str | tuple[str, ...]]
    marks: frozenset[str] = frozenset()
    splits: Mapping[str, str] = field(default_factory=dict)


def recognised(path: Path) -> str:
    """The format that a log looks like: the first whose marks its first row has.

    Raises:
      UserError: it does not exist, cannot be read, or looks like none.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    unreadable: UserError | None = None
    for name, form in FORMATS.items():
        files = form.files(path)
        if not files or not form.marks:
            continue
        try:
            _, first = next(form.rows(files[0]), ("", {}))
        except UserError as error:
            unreadable = unreadable or error
            continue
        if form.marks <= set(first):
            return name
    raise unreadable or UserError(
        f"{path}: the format of this log is not recognised; name it with --format ({', '.join(FORMATS)}), or its "
        "columns with --columns question=…,text=…,correct=…"
    )


def _files(*patterns: str) -> Callable[[Path], list[Path]]:
    """Files below a folder, by the first of the patterns (``A|B``: both) that finds any; a file is itself."""

    def find(path: Path) -> list[Path]:
        if path.is_file():
            kinds = {Path(one.removesuffix(".gz")).suffix for pattern in patterns for one in pattern.split("|")}
            return [path] if Path(path.name.removesuffix(".gz")).suffix in kinds else []
        for pattern in patterns:
            groups = (sorted(path.glob(one), key=lambda file: (number_of(file), file)) for one in pattern.split("|"))
            if found := [file for files in groups for file in files]:
                return found
        return []

    return find


def number_of(file: Path) -> int:
    """The step that a file is named by (``20.jsonl``, ``completions_00020.parquet``, ``heldout-20-0.jsonl``), or 0."""
    found = _NUMBERED.fullmatch(file.name.split(".")[0])
    return int(found[1]) if found else 0


def table(file: Path) -> Rows:
    """Rows of JSON lines, of a JSON list, or of Parquet."""
    rows = open_rows(file)
    for index in range(len(rows)):
        yield f"{file.parent / rows.location(index)}", rows[index]


def results(file: Path) -> Rows:
    """JSON with a list of results; a question that is an object is taken apart."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
            found = json.loads(content.read())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}, column {error.colno}: no JSON ({error.msg})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    listed = found.get("results") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise UserError(f"{file}: no list 'results' in it; --format names another format")
    for index, row in enumerate(listed):
        where = f"{file}, results[{index}]"
        if not isinstance(row, dict):
            raise UserError(f"{where}: it is {type(row).__name__}, not an object with named fields")
        asked = row.get("question")
        if isinstance(asked, dict):
            prompt, image = str(asked.get("question", "")), str(asked.get("image_path", ""))
            row = {**row, "question": f"{image} {prompt}".strip(), "prompt": prompt, "image": image}
        yield where, row


def trl(file: Path) -> Rows:
    """TRL's completions; the reward that says what is correct becomes the column ``correct``."""
    for where, row in table(file):
        rewards = [name for name in row if name not in _NOT_REWARDS and isinstance(row[name], int | float)]
        named = [name for name in rewards if re.search("acc|correct", name)]
        chosen = named if len(named) == 1 else rewards
        known = {"correct": row[chosen[0]]} if len(chosen) == 1 and "correct" not in row else {}
        yield where, {**row, **known}


def easyr1(file: Path) -> Rows:
    """EasyR1's log. It has no steps: a round of validation begins where a prompt is asked again after another one."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        block: dict[str, Any] = {}
        current, seen, last, step = "", set[str](), "", 0
        for number, line in enumerate(lines, 1):
            found = _BLOCK.match(line)
            if found is None:
                if current and current != "score":  # after a score comes the next block
                    block[current] += line
                continue
            current = found[1]
            if current == "prompt":
                block = {}
            block[current] = line[found.end() :]
            if current != "score":
                continue
            where = f"{file}, line {number}"
            row = {name: text.strip() for name, text in block.items()}
            if missing := [name for name in ("prompt", "output") if name not in row]:
                raise UserError(f"{where}, column 1: a [score] without [{missing[0]}] before it")
            if row["prompt"] in seen and row["prompt"] != last:
                step, seen = step + 1, set()
            seen.add(row["prompt"])
            last = row["prompt"]
            yield where, row | {"step": step}


FORMATS: Mapping[str, Format] = {
    "pivot": Format(
        _files("completions/*.jsonl|eval/heldout-*.jsonl", "samples/*.jsonl", "*.jsonl"),
        table,
        {
            "question": "id", "text": "completion", "step": "version", "correct": "reward", "gold": "answer",
            "tokens": "tokens", "truncated": "finish", "prompt": "prompt", "images": "images",
        },
        frozenset({"completion", "version"}),
        {"completions": "train", "heldout": "val"},
    ),
    "trl": Format(
        _files("completions/*.parquet", "*.parquet"),
        trl,
        {"question": "prompt", "text": "completion", "step": "step", "correct": "correct", "prompt": "prompt"},
        frozenset({"prompt", "completion"}),
    ),
    "verl": Format(
        _files("*.jsonl"),
        table,
        {
            "question": "input", "text": "output", "step": "step", "correct": ("acc", "score"),
            "gold": ("gts", "ground_truth"), "prompt": "input",
        },
        frozenset({"input", "output"}),
    ),
    "easyr1": Format(
        _files("generations.log", "*.log"),
        easyr1,
        {
            "question": "prompt", "text": "output", "step": "step", "correct": "score", "gold": "ground_truth",
            "prompt": "prompt",
        },
        frozenset({"prompt", "output"}),
    ),
    "vlm-r1": Format(
        _files("*.json|*.json.gz"),
        results,
        {
            "question": "question", "text": "model_output", "correct": ("is_correct", "correct"),
            "gold": "ground_truth", "prompt": ("prompt", "question"), "images": "image",
        },
        frozenset({"model_output"}),
    ),
    "columns": Format(_files("*.jsonl|*.jsonl.gz", "*.json|*.json.gz", "*.parquet"), table, {}),
}  # fmt: skip
