"""Commands that must fail: their command lines, the files that they meet, and how these are damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.tiny.damage import flip, truncate

Prepare = Callable[[Path, Path], object]  # of the shared world and the case's own folder


class Case(NamedTuple):
    """In its texts ``{w}`` is the shared world, which no command may change, and ``{c}`` the case's own folder."""

    id: str
    line: str  # after "pivot-jax "
    says: tuple[str, ...]  # in the message: the reason, and the file, row or key
    files: dict[str, Any] | Prepare  # of {c}, or a function that makes them
    adds: tuple[str, ...]  # patterns of what the command may leave in {c}
    code: int  # 1, or 2 for wrong usage

    def prepare(self, world: Path, own: Path) -> list[str]:
        """Makes the case's folder ``own``; returns the words of the command line."""
        own.mkdir()
        if callable(self.files):
            self.files(world, own)
        else:
            for name, content in self.files.items():
                write(own / name, content)
        return [word.replace("{w}", str(world)).replace("{c}", str(own)) for word in self.line.split()]


def case(name: str, line: str, *says: str, files: Any = None, adds: tuple[str, ...] = (), code: int = 1) -> Case:
    return Case(name, line, says, files or {}, adds, code)


def usage(name: str, line: str, *says: str) -> Case:
    return case(name, line, *says, code=2)


IMPORT = "import-hf --folder {c}/hf --workdir {c}/out"
TRAIN = "train --config {w}/tiny.py --workdir {c}/out"


def key(name: str, overrides: str, *says: str, files: Any = None, adds: tuple[str, ...] = ()) -> Case:
    """A config of the world with other values of keys, ``KEY=VALUE KEY=VALUE``."""
    words = " ".join(f"--config.{word}" for word in overrides.split())
    return case(name, f"{TRAIN} {words}", *says, files=files, adds=adds)


def file(name: str, content: Any, *says: str, spec: str = "bad.py") -> Case:
    """A config file of its own."""
    line = f"train --config {{c}}/{spec} --workdir {{c}}/out"
    return case(name, line, *says, files={spec.partition(":")[0]: content})


SKIPPED = ("out", "out/.lock", "out/skipped.jsonl")
STARTED = (*SKIPPED, "out/config.json", "out/tokenizer*", "out/trained_parameters.json", "out/metrics.jsonl",
           "out/tensorboard*", "out/trackers*", "out/checkpoints")  # fmt: skip


def data(
    name: str, content: Any, *says: str, path: str = "rows.jsonl", kind: str = "llava", more: str = "", adds=SKIPPED
) -> Case:
    """Training data in a file of its own; its images are those of the world."""
    words = f"data.sources.0.path={{c}}/{path} data.sources.0.format={kind} data.sources.0.image_root={{w}}"
    files = content if callable(content) else {path: content}
    return key(name, f"{words} {more}", *says, files=files, adds=adds)


ASKED, TOLD = {"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "It is red."}
GOOD = {"id": "good", "image": "0.png", "conversations": [ASKED, TOLD]}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(**fields: Any) -> str:
    """Three good rows, and one with other fields; None leaves a field out."""
    bad = {name: value for name, value in {**GOOD, "id": "bad", **fields}.items() if value is not None}
    return lines(GOOD, GOOD, GOOD, bad)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def copied(what: str, change: Callable[[Path], object]) -> Prepare:
    """A folder of the world, changed, under the same name in the case's own folder."""
    return lambda world, own: change(shutil.copytree(world / what, own / what))


def edited(name: str, **fields: Any) -> Callable[[Path], object]:
    """Another value of fields of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        raw = {**json.loads((folder / name).read_text()), **fields}
        write(folder / name, {field: value for field, value in raw.items() if value is not None})

    return change


def text_config(**fields: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        write(folder / "config.json", {**raw, "text_config": {**raw["text_config"], **fields}})

    return change


def shard(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


def not_a_number(folder: Path) -> None:
    tensors = load_file(shard(folder))
    name = max(tensors)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, shard(folder), metadata={"format": "pt"})


def damaged(run: Path) -> None:
    """One other bit in every file of arrays of the checkpoint."""
    for path in (run / "checkpoints").rglob("d/*"):
        flip(path, 0.5, 0)


def with_folder(world: Path, own: Path) -> None:
    write(own / "rows.jsonl" / "x", "")


def with_pipe(world: Path, own: Path) -> None:
    """A row whose image is a named pipe, from which a read would wait for ever."""
    os.mkfifo(own / "x.png")
    write(own / "rows.jsonl", row(image=str(own / "x.png")))


def with_half_an_image(world: Path, own: Path) -> None:
    shutil.copy(world / "0.png", own / "x.png")
    truncate(own / "x.png")
    write(own / "rows.jsonl", row(image=str(own / "x.png")))


def one_class(world: Path, own: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(world / "classes" / split / "red", own / split / "red")


def imported(name: str, change: Callable[[Path], object], *says: str, line: str = IMPORT) -> Case:
    """A Hugging Face folder, changed."""
    return case(name, line, *says, files=copied("hf", change))


def answers(*changed: Any) -> str:
    """Lines of answers to a benchmark, each with changes."""
    first = {"question_id": "q", "answer": "A", "gt_answer": "A", "benchmark": "scenes", "model_id": "m"}
    return lines(*({**first, "question_id": f"q{i}", **fields} for i, fields in enumerate(changed)))


def scored(name: str, content: str | bytes, *says: str, more: str = "") -> Case:
    """A file of predictions."""
    return case(name, f"score --predictions {{c}}/p.jsonl {more}", *says, files={"p.jsonl": content})
