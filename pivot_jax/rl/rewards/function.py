"""Rewards as the config names them: built-in ones, and Python functions of the user."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pivot_jax.config.check import coerce
from pivot_jax.errors import UserError, suggest
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.table import REWARDS

OWN = ("name", "weight", "label", "timeout_s", "messages")  # keys of a reward in the config; others are its options
TEXTS = ("prompts", "completions", "completion_ids")  # arguments of a user's function that no row has as columns


@dataclass(frozen=True)
class Reward:
    """One entry of ``rl.rewards``.

    Attributes:
      name: of the table of built-in rewards, or ``module:function``, or ``/path/to/file.py:function``.
      label: names it in metrics and messages; the function's name where the config gives none.
      weight: its share of the total; 0 is logged only.
      timeout_s: seconds of one call: a completion of a built-in reward, the whole batch of a user's function.
      messages: a user's function gets lists of chat messages instead of texts.
      options: further arguments of the function.
    """

    name: str
    label: str
    weight: float = 1.0
    timeout_s: float = 5.0
    messages: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def built_in(self) -> bool:
        """Whether it is called with one completion; else with the whole batch."""
        return ":" not in self.name


class Columns(NamedTuple):
    """Columns of the data rows that a reward reads: those it cannot do without, the others, or all there are."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    every: bool = False


def read_rewards(entries: Sequence[Mapping[str, Any]], timeout_s: float) -> tuple[Reward, ...]:
    """The entries of ``rl.rewards``, checked.

    Raises:
      UserError: an unknown reward or option, a value that is not allowed, two rewards with one label, or none at all.
    """
    if not entries:
        raise UserError("rl.rewards: empty; name at least one, such as ({'name': 'math', 'column': 'answer'},)")
    rewards = tuple(_read(f"rl.rewards.{at}", entry, timeout_s) for at, entry in enumerate(entries))
    labels = [reward.label for reward in rewards]
    for at, label in enumerate(labels):
        if label in labels[:at]:
            raise UserError(f"rl.rewards.{at}: a second reward '{label}'; give one of them a 'label' of its own")
    return rewards


def _read(key: str, entry: Mapping[str, Any], timeout_s: float) -> Reward:
    name, options = entry["name"], {option: value for option, value in entry.items() if option not in OWN}
    if ":" in name:
        module, _, function = name.rpartition(":")
        if not module or not function.isidentifier():
            raise UserError(f"{key}.name: '{name}' is not module:function or path/to/file.py:function")
        if module.endswith(".py"):
            path = Path(module).expanduser().resolve()
            if not path.is_file():
                raise UserError(f"{key}.name: there is no file {path}; write path/to/file.py:function")
            _check_function(key, path, function)
            name = f"{path}:{function}"
        try:
            json.dumps(options)
        except TypeError as error:
            raise UserError(f"{key}: options must be plain values ({error})") from None
    elif name not in REWARDS:
        known = ", ".join(REWARDS)
        raise UserError(
            f"{key}.name: there is no reward '{name}'{suggest(name, REWARDS)} (built-in: {known}; your own is "
            "module:function or path/to/file.py:function)"
        )
    else:
        function = name
        options = _check_options(key, REWARDS[name], options)
    return Reward(
        name=name,
        label=entry.get("label") or function,
        weight=float(entry.get("weight", 1.0)),
        timeout_s=float(entry.get("timeout_s", timeout_s)),
        messages=bool(entry.get("messages", False)),
        options=options,
    )


def _check_function(key: str, path: Path, function: str) -> None:
    """Raises UserError where the file, which is not run here, defines no such function."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{key}.name: {path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{key}.name: {path} is not Python ({error})") from None
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    names: set[str | None] = set()  # that the file gives to anything, wherever; "*": of another module's names
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        else:
            names.add(getattr(node, "name", None))
    if not {function, "*"} & names:
        public = [name for name in defined if not name.startswith("_")]
        raise UserError(
            f"{key}.name: {path} has no function '{function}'{suggest(function, defined)} "
            f"(functions: {', '.join(public) or 'none'})"
        )


def _check_options(key: str, function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    types = get_type_hints(function)
    checked = {}
    for name, value in options.items():
        if name not in known:
            all_names = ", ".join((*known, *OWN))
            raise UserError(f"{key}.{name}: unknown option{suggest(name, known)} (options: {all_names})")
        checked[name] = coerce(f"{key}.{name}", value, known[name])
        allowed = get_args(types[name]) if get_origin(types[name]) is Literal else ()
        if allowed and value not in allowed:
            words = ", ".join(allowed)
            raise UserError(f"{key}.{name}: {value!r} is not allowed (allowed: {words}){suggest(str(value), allowed)}")
    return checked


def load(reward: Reward) -> Callable[..., Any]:
    """The function that a reward names. Runs in the worker processes: a user's module is imported nowhere else."""
    if reward.built_in:
        return REWARDS[reward.name]
    where, _, name = reward.name.rpartition(":")
    if where.endswith(".py"):
        module_name = f"reward_{abs(hash(where))}"
        spec = importlib.util.spec_from_file_location(module_name, where)
        assert spec is not None and spec.loader is not None, where
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        sys.path.insert(0, str(Path(where).parent))  # for the modules beside it, as if Python ran the file
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"{where} has no function '{name}'")
    return function


def columns_of(reward: Reward, function: Callable[..., Any]) -> Columns:
    """The columns that a reward reads, from its options or, of a user's function, from its parameters."""
    parameters = inspect.signature(function).parameters.values()
    if not reward.built_in:
        names = [p for p in parameters if p.name not in TEXTS and p.name not in reward.options]
        names = [p for p in names if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return Columns(
            tuple(p.name for p in names if p.default is p.empty),
            tuple(p.name for p in names if p.default is not p.empty),
            any(p.kind is p.VAR_KEYWORD for p in parameters),
        )
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | dict(reward.options)
    named = {name: value for name, value in options.items() if name == "column" or name.endswith("_column")}
    coordinates = options.get("coordinates")
    optional = {"choices_column"}
    if coordinates != "resized":
        optional.add("resized_column")
    if coordinates == "original":
        optional.add("size_column")
    return Columns(
        tuple(value for name, value in named.items() if name not in optional),
        tuple(value for name, value in named.items() if name in optional),
    )


def call(reward: Reward, function: Callable[..., Any], items: Sequence[Completion]) -> list[Any]:
    """Calls a user's function as TRL does, with the arguments among TRL's that it has, and the reward's options.

    Returns:
      what the function returned, as a list; it is not checked.
    """
    reads = columns_of(reward, function)
    parameters = inspect.signature(function).parameters
    names = [*reads.required, *reads.optional]
    if reads.every:
        names = list(dict.fromkeys([*names, *(name for item in items for name in item.columns)]))
    present = {name for item in items for name in item.columns}
    arguments: dict[str, Any] = {
        name: [item.columns.get(name) for item in items] for name in names if name in present or name in reads.required
    }
    texts = {
        "prompts": [_message("user", item.prompt) if reward.messages else item.prompt for item in items],
        "completions": [_message("assistant", item.text) if reward.messages else item.text for item in items],
        "completion_ids": [item.tokens.tolist() for item in items],
    }
    arguments |= {name: value for name, value in texts.items() if reads.every or name in parameters}
    found = function(**arguments, **reward.options)
    return list(asyncio.run(found) if inspect.iscoroutine(found) else found)


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]
