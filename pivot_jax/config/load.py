"""Configs from files and the command line, and their written form.

``load("configs/demo/sft.py:arg", {"data.batch_size": "32"})`` = defaults, then the file, then the overrides. A file
that does not exist is looked for among the configs of the package (:mod:`.catalogue`): ``load("demo/sft.py")``.
A config file is Python with ``get_config(arg="")`` that returns only what differs from the defaults, as nested plain
values; a run's ``config.json`` is read as well.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pivot_jax.config import catalogue
from pivot_jax.config.base import base
from pivot_jax.config.check import FREE, check_value, coerce, validate
from pivot_jax.config.migration import RETIRED, translate
from pivot_jax.errors import UserError, suggest

# Keys of how a run is executed, not of what it computes: a workdir may be resumed with other values. (Another mesh or
# accumulation changes results by rounding only.)
EXECUTION = (
    r"name",
    r"data\.(workers|worker_kind|prefetch|cache_rows_mib|cache_images_mib|max_bad_share|allow_outside_root|read_timeout_s)",
    r"rl\.(reward_workers|show_every|metric_names|vllm\..*)",
    r"hardware",
    r"parallel\..*",
    r"model\.(vision|second|decoder)\.(remat|scan_layers)",
    r"train\.(accumulate|log_every|checkpoint_every|keep|best_metric|trackers|tracker_project|peer_timeout_s)",
    r"eval\..*",
)
_EXECUTION = re.compile("|".join(EXECUTION))


def load(spec: str = "", overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Config of ``FILE[:arg]`` ("": the defaults) with ``overrides``, checked and locked.

    Args:
      overrides: {"dotted.key": value, its text, or a dict of the keys below}.

    Raises:
      UserError: file missing or broken, unknown key, wrong type, value not allowed, keys that contradict each other.
    """
    config = base()
    if spec:
        merge(config, read_file(spec), where=spec)
    for key, value in (overrides or {}).items():
        if isinstance(value, Mapping):
            merge(config, {key: value})
        else:
            set_key(config, key, value)
    validate(config)
    return config


def read_file(spec: str) -> Mapping[str, Any]:
    """Content of the file ``FILE[:arg]``, or of the packaged config of that name, unchecked."""
    path, arg = find(spec)
    if path.suffix == ".json":
        return _read_json(_text(path), str(path))
    return _call_get_config(path, arg)


def find(spec: str) -> tuple[Path, str]:
    """(file, argument) of ``FILE[:arg]``. Raises UserError for a missing file; the message names the nearest."""
    match = re.fullmatch(r"(.+?\.(?:py|json))(?::(.*))?", spec)
    if not match:
        near = suggest(spec, catalogue.names())
        raise UserError(f"{spec}: not a config; give FILE.py[:argument] or the config.json of a run{near}")
    return catalogue.find(match[1]), match[2] or ""


def include(here: str, spec: str) -> dict[str, Any]:
    """For config files: content of the file ``spec`` beside ``here`` (pass ``__file__``), as a plain nested dict."""
    content = read_file(str(Path(here).parent / spec))
    return content.to_dict() if isinstance(content, ConfigDict) else dict(content)


def _call_get_config(path: Path, arg: str) -> Mapping[str, Any]:
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        # Not by Python's import, which takes a file that was changed within a second for the old one, and writes
        # __pycache__ beside it.
        exec(compile(path.read_bytes(), os.path.abspath(path), "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from None
    except UserError:
        raise
    except Exception as error:  # any error in the file's own code
        raise _of_file(path, error) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path}: no function get_config(arg=''); a config file must define it")
    takes_arg = bool(inspect.signature(get_config).parameters)
    if arg and not takes_arg:
        raise UserError(f"{path}: takes no argument; leave out ':{arg}'")
    try:
        content = get_config(arg) if takes_arg else get_config()
    except UserError:
        raise
    except Exception as error:  # a misspelt key of a locked ConfigDict, or a bug in the file
        raise _of_file(path, error) from error
    if not isinstance(content, (Mapping, ConfigDict)):
        raise UserError(f"{path}: get_config returned {content!r:.60}; it must return a dict or ConfigDict")
    return content


def _of_file(path: Path, error: Exception) -> UserError:
    """One line for an error in a config file's own code: the file, its line, Python's message."""
    here = os.path.abspath(path)  # as Python names the file of a module
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == here]
    where = f"{path}:{lines[-1]}" if lines else str(path)
    said = str(error.args[0]) if error.args else repr(error)
    said = re.sub(r"Other fields present:.*}\"\s*", "", said, flags=re.DOTALL)  # a locked ConfigDict lists itself
    said = " ".join(said.split())[:300]
    return UserError(f"{where}: {type(error).__name__}: {said}")


def merge(config: ConfigDict, content: Mapping[str, Any], where: str = "", prefix: str = "") -> None:
    """Set every value of the nested ``content`` in ``config``, in place.

    Raises:
      UserError: unknown key or value that is not allowed; ``where`` begins the message.
    """
    for name, value in content.items():
        key = f"{prefix}{name}"
        try:
            if isinstance(value, (Mapping, ConfigDict)) and key not in FREE and _is_group(config, key):
                merge(config, value, "", f"{key}.")
            elif key in FREE:
                if not isinstance(value, (Mapping, ConfigDict)):
                    raise UserError(f"{key}: {value!r} is not a dict of parameter prefix → weight source")
                for free_name, free_value in value.items():
                    set_key(config, f"{key}.{free_name}", free_value)
            else:
                set_key(config, key, value)
        except UserError as error:
            raise (UserError(f"{where}: {error}") if where else error) from None


def _is_group(config: ConfigDict, key: str) -> bool:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            return False
        node = node[part]
    return isinstance(node, ConfigDict)


def set_key(config: ConfigDict, key: str, value: Any) -> None:
    """Set one dotted key in place. Text is read as the key's type (``"1e-5"``, ``"true"``, ``"((64, 32),)"``).

    ``data.sources.0.path`` and ``optimizer.rules.0.1`` reach into a tuple. ``init.PREFIX`` may be new, and ``""``
    removes it.

    Raises:
      UserError: unknown key, wrong type, value not allowed.
    """
    *parents, last = key.split(".")
    node: Any = config
    for depth, part in enumerate(parents):
        if isinstance(node, ConfigDict) and isinstance(node.get(part), tuple):
            node[part] = _replaced(node[part], key, key.split(".")[depth + 1 :], value)
            return
        if not isinstance(node, ConfigDict) or part not in node:
            raise _unknown(config, key)
        node = node[part]
    if ".".join(parents) in FREE:
        with node.unlocked():
            if value == "":
                _remove(node, key, last)
            else:
                node[last] = value
        return
    if not isinstance(node, ConfigDict) or last not in node:
        raise _unknown(config, key)
    if key in FREE and value in ("{}", {}):  # from the command line: without the entries of the config file
        node[last] = ConfigDict()
        return
    if isinstance(node[last], ConfigDict):
        inside = ", ".join(node[last]) or "chosen by you"
        if key == "init":
            inside = (
                "parameter prefixes, --config.init.vision=hf:FOLDER; the whole model is --config.init.=run:FOLDER; "
                "--config.init.vision= removes one, --config.init={} all"
            )
        raise UserError(f"{key}: this key is a group of others and takes no value (keys in it: {inside})")
    if isinstance(value, str) and not isinstance(node[last], str):
        value = _parse(key, value, node[last])
    value = coerce(key, value, node[last])
    check_value(key, value)
    node[last] = value


def _remove(node: ConfigDict, key: str, last: str) -> None:
    if last not in node:
        there = ", ".join(f"'{name}'" for name in node) or "none"
        raise UserError(f"{key}: empty, which removes an entry, but there is no such one (there is: {there})")
    del node[last]


def _replaced(old: Any, key: str, path: list[str], value: Any) -> Any:
    """``old`` with ``value`` at the entry ``path``: numbers of a tuple's items and keys of dicts.

    Raises:
      UserError: no such item.
    """
    if not path:
        return _parse(key, value, None) if isinstance(value, str) else value
    first, *rest = path
    if isinstance(old, Mapping):
        before = old.get(first)
        if isinstance(before, str) and not rest and not str(value).startswith(("(", "[", "{")):
            return {**old, first: value}  # a name stays a name, whatever it looks like
        return {**old, first: _replaced(before, key, rest, value)}
    name = key.removesuffix("." + ".".join(path))
    if not isinstance(old, tuple):
        raise UserError(f"{key}: {name} is {old!r}, which has no entries")
    if not (first.isdigit() and int(first) < len(old)):
        last = "its only entry is 0" if len(old) == 1 else f"its entries are 0 to {len(old) - 1}"
        has = last if old else "it is empty"
        raise UserError(f"{key}: no such entry of {name}; {has}")
    return tuple(_replaced(x, key, rest, value) if i == int(first) else x for i, x in enumerate(old))


def _unknown(config: ConfigDict, key: str) -> UserError:
    if key in RETIRED:
        return UserError(f"{key}: this key no longer exists; {RETIRED[key][0]}")
    known = flatten(config)
    parent = key.rpartition(".")[0]
    while parent and not _is_group(config, parent):
        parent = parent.rpartition(".")[0]
    node = config
    for part in filter(None, parent.split(".")):
        node = node[part]
    return UserError(f"{key}: unknown key{suggest(key, known)} (keys of {parent or 'a config'}: {', '.join(node)})")


def _parse(key: str, text: str, default: Any) -> Any:
    words = {"true": True, "false": False}
    if isinstance(default, bool) or (default is None and text.lower() in words):
        return words.get(text.lower(), text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # coerce says what is wrong with it


def flatten(config: ConfigDict) -> dict[str, Any]:
    """``{"model.vision.width": 64, ...}`` sorted within each group."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """Readable JSON of all keys; :func:`from_json` gives an equal config back."""
    return json.dumps(config.to_dict(), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str = "config.json") -> ConfigDict:
    """Config from :func:`to_json`'s text, checked like a file."""
    config = base()
    merge(config, _read_json(text, where), where=where)
    validate(config)
    return config


def from_file(path: Path) -> ConfigDict:
    """Config of a run's ``config.json``. Raises UserError as :func:`load`."""
    return from_json(_text(path), str(path))


def with_keys(config: ConfigDict, overrides: Mapping[str, Any], allowed: Sequence[str]) -> ConfigDict:
    """A copy of a trained run's config with other values of keys that do not change what was trained.

    Args:
      allowed: such keys; ``rl.`` allows all of a section.

    Raises:
      UserError: another key, one that there is not, or a value that is not allowed.
    """
    changed = from_json(to_json(config))
    for key, value in overrides.items():
        set_key(changed, key, value)
        if not any(f"{key}.".startswith(one if one.endswith(".") else f"{one}.") for one in allowed):
            *names, last = [f"{one}*" if one.endswith(".") else one for one in allowed]
            can = f"only {', '.join(names)} and {last} can be set"
            raise UserError(f"{key}: a trained run's config cannot be changed; {can}")
    return changed


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})") from None


def _read_json(text: str, where: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}:{error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: it must hold a JSON object, not a {type(content).__name__}")
    return translate(content)


def result_keys(config: ConfigDict) -> dict[str, Any]:
    return {k: v for k, v in flatten(config).items() if not _EXECUTION.fullmatch(k)}


def fingerprint(config: ConfigDict) -> str:
    """16 hex digits that two configs share when they compute the same thing (keys of ``EXECUTION`` do not count)."""
    text = json.dumps(result_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Lines ``key: old → new`` for the keys that make the fingerprints differ."""
    a, b = result_keys(old), result_keys(new)
    lines = []
    for key in [*a, *(k for k in b if k not in a)]:
        if a.get(key) != b.get(key):
            lines.append(f"{key}: {a.get(key, '(absent)')!r} → {b.get(key, '(absent)')!r}")
    return lines
