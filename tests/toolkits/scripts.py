"""Cambrian's and LLaVA's evaluation scripts, opened without a model: their own functions, with their own defaults."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Tensor:
    """Stands for token ids or an image, of which the scripts only ask to be on the GPU in some shape."""

    def __getattr__(self, name: str) -> Any:
        return lambda *rest, **more: self

    def __getitem__(self, index: Any) -> Tensor:
        return self


def version(root: Path) -> str:
    """The commit of a checkout, from git's HEAD or from the file COMMIT that an exported tree has; or a package's."""
    for package in root.glob("*.dist-info"):
        return " ".join(package.stem.rsplit("-", 1))
    if (root / "COMMIT").is_file():
        return f"commit {(root / 'COMMIT').read_text().strip()}"
    head = (root / ".git" / "HEAD").read_text().strip()
    named = head.removeprefix("ref: ")
    return f"commit {head if named == head else (root / '.git' / named).read_text().strip()}"


def open_package(name: str, root: Path) -> None:
    """Make the package importable without its ``__init__``, which imports every model; models cannot be loaded."""
    package = types.ModuleType(name)
    package.__path__ = [str(root / name)]
    sys.modules[name] = package
    sys.modules[f"{name}.model"] = types.ModuleType(f"{name}.model")
    builder = types.ModuleType(f"{name}.model.builder")
    builder.load_pretrained_model = None  # type: ignore[attr-defined]
    sys.modules[f"{name}.model.builder"] = builder


def run(file: Path, arguments: list[str] | None = None, main: bool = True, to_the_end: bool = False) -> dict[str, Any]:
    """The script's names after all of it but its last statement (``eval_model(args)``), with its arguments parsed.

    The functions that turn text into token ids and images into tensors are replaced: prompts are text before them.

    Args:
        file: the script.
        arguments: its command line.
        main: whether to run what a script does when it is started, at all.
        to_the_end: whether to run the last statement too.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
    last = tree.body.pop()
    if not isinstance(last, ast.If):
        raise SystemExit(f"{file}: its last statement is not `if __name__ == …`; this checkout is another version")
    exec(compile(tree, str(file), "exec"), names)
    before, sys.argv = sys.argv, [str(file), *(arguments or [])]
    try:
        body = last.body if to_the_end else last.body[:-1]
        exec(compile(ast.Module(body if main else [], []), str(file), "exec"), names)
    finally:
        sys.argv = before
    names["prompts"] = []
    names["tokenizer_image_token"] = lambda prompt, *rest, **more: names["prompts"].append(prompt) or Tensor()
    names["process_images"] = lambda *rest: Tensor()
    return names


MODEL_CONFIG = SimpleNamespace(mm_use_im_start_end=False)


def question(names: dict[str, Any], at: int = -1) -> str:
    """What the user says in a prompt that was made, by default the last, without the conversation template around."""
    roles = names["conv_templates"][names["args"].conv_mode].roles
    return names["prompts"][at].split(f"{roles[0]}: ", 1)[1].rsplit(f" {roles[1]}:", 1)[0]
