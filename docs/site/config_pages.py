"""The reference of config keys, from the dicts of ``pivot_jax/config/base.py`` and ``online_rl.py``, with comments."""

from __future__ import annotations

import ast
import html
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pivot_jax.config import check, online_rl

base_module = import_module("pivot_jax.config.base")  # pivot_jax.config.base is its function
INTRODUCTION = """# {title}

Every key with its default, its type, what is allowed, and what it means, from `{file}`. Set one in a config file
(`"data.packing": 8`) or on the command line (`--config.data.packing=8`). Values are plain: bool, int, float, str,
tuples, dicts. An unknown key, a wrong type and a value that is not allowed are errors.
"""


@dataclass(frozen=True)
class Key:
    """A key, or a group of keys, and the comments at it."""

    path: str
    text: str
    is_group: bool


class Source:
    """A module whose functions return the dicts, and its comments by line."""

    def __init__(self, module: Any):
        code = Path(module.__file__).read_text(encoding="utf-8")
        self.functions = {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        self.comments: dict[int, str] = {}
        self.alone: set[int] = set()  # lines with nothing but a comment
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                self.comments[token.start[0]] = token.string.lstrip("#").strip()
                if not token.line[: token.start[1]].strip():
                    self.alone.add(token.start[0])

    def dict_of(self, function: str) -> ast.Dict:
        """The first dict that the function holds: what it returns, or gives to ConfigDict."""
        return next(node for node in ast.walk(self.functions[function]) if isinstance(node, ast.Dict))

    def text_at(self, line: int) -> str:
        """The comment lines above ``line``, and the comment on it."""
        first = line
        while first - 1 in self.alone:
            first -= 1
        return " ".join(self.comments[n] for n in range(first, line + 1) if n in self.comments)


SOURCES = {"base": Source(base_module), "online_rl": Source(online_rl)}


def all_keys() -> list[Key]:
    """All keys and groups, in the order of the files."""
    return list(_keys(SOURCES["base"], SOURCES["base"].dict_of("base"), ""))


def _keys(source: Source, node: ast.Dict, prefix: str) -> Iterator[Key]:
    for name, value in zip(node.keys, node.values, strict=True):
        if name is None:  # **function()
            other, function = _called(source, value)
            yield from _keys(other, other.dict_of(function), prefix)
            continue
        assert isinstance(name, ast.Constant)
        path = f"{prefix}{name.value}"
        inner = (source, value) if isinstance(value, ast.Dict) and value.keys else None
        if isinstance(value, ast.Call):
            other, function = _called(source, value)
            inner = other, other.dict_of(function)
        yield Key(path, source.text_at(name.lineno), inner is not None)
        if inner is not None:
            yield from _keys(*inner, f"{path}.")


def _called(source: Source, node: ast.expr) -> tuple[Source, str]:
    assert isinstance(node, ast.Call), ast.dump(node)
    if isinstance(node.func, ast.Attribute):
        assert isinstance(node.func.value, ast.Name)
        return SOURCES[node.func.value.id], node.func.attr
    assert isinstance(node.func, ast.Name)
    return source, node.func.id


def allowed(path: str) -> str:
    """What :mod:`check` accepts for the key, in words; "" where it accepts all values of the type."""
    choices = [
        ", ".join(f"`{value!r}`" for value in values) for rule, values in check.CHOICES if re.fullmatch(rule, path)
    ]
    ranges = [words for rule, _, words in check.RANGES if re.fullmatch(rule, path)]
    return "; ".join([*(f"one of {words}" for words in choices), *ranges])


def pages() -> dict[str, str]:
    """Site path → Markdown: the keys of online RL are a page of their own."""
    everything = all_keys()
    rl = [key for key in everything if key.path == "rl" or key.path.startswith("rl.")]
    rest = [key for key in everything if key not in rl]
    return {
        "reference/config.md": _page("Config keys", "pivot_jax/config/base.py", rest),
        "reference/online-rl.md": _page("Keys of online RL", "pivot_jax/config/online_rl.py", rl),
    }


def _page(title: str, file: str, chosen: list[Key]) -> str:
    defaults = base_module.base()
    parts = [INTRODUCTION.format(title=title, file=file)]
    if top := [key for key in chosen if not key.is_group and "." not in key.path]:
        parts += ["## Top level", *(_entry(key, defaults) for key in top)]
    for key in chosen:
        if key.is_group:
            parts.append(f"{'#' * (2 + key.path.count('.'))} {key.path}")
            parts += [_plain(key.text)] if key.text else []
        elif "." in key.path:
            parts.append(_entry(key, defaults))
    return "\n\n".join(parts) + "\n"


def _entry(key: Key, defaults: Any) -> str:
    value = defaults
    for name in key.path.split("."):
        value = value[name]
    plain = value.to_dict() if hasattr(value, "to_dict") else value
    about = [f"default `{plain!r}`", type(plain).__name__, allowed(key.path)]
    text = f"<br>{_plain(key.text)}" if key.text else ""
    anchor = re.sub(r"[^a-z0-9_]", "-", key.path.lower())
    return f"**`{key.path}`**{{ #key-{anchor} }} {' · '.join(filter(None, about))}{text}"


def _plain(text: str) -> str:
    """A comment as Markdown: only its backticks mean something."""
    parts = text.split("`")
    escaped = [html.escape(re.sub(r"([*_\[\]|~])", r"\\\1", part), quote=False) for part in parts[::2]]
    code = [f"`{part}`" for part in parts[1::2]]
    return "".join(piece for pair in zip(escaped, [*code, ""], strict=False) for piece in pair)
