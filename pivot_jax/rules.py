"""One rule grammar for everything that depends on a parameter's path.

A rule list is ``[(regex, value), ...]``. A parameter's path is its keys joined with ``/``
(``"vision/blocks/attn/q/kernel"``). The first rule whose regex matches the *whole* path gives the
value; a path that no rule matches is an error. Freezing, learning rates, weight decay and sharding
all use this grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

Rules = Sequence[tuple[str, Any]]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict → ``{"a/b/c": leaf}``, in the same order."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def match(rules: Rules, path: str, what: str = "rules") -> Any:
    """Value of the first rule that matches the whole of ``path``.

    Raises:
      ValueError: no rule matches; the message names the path and the rule list.
    """
    for pattern, value in rules:
        if re.fullmatch(pattern, path):
            return value
    known = ", ".join(repr(pattern) for pattern, _ in rules) or "none"
    raise ValueError(
        f"{what}: no rule matches parameter '{path}' (rules: {known}); add a rule, for example ('.*', ...), at the end"
    )


def map_rules(rules: Rules, tree: Mapping[str, Any], what: str = "rules") -> dict[str, Any]:
    """Tree of the same structure with the rules' values as leaves."""
    return unflatten({path: match(rules, path, what) for path in flatten(tree)})


def select(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Subtree at ``prefix`` ("" is the whole tree).

    Raises:
      KeyError: nothing at ``prefix``; the message lists the keys that exist.
    """
    node: Any = tree
    for key in filter(None, prefix.split("/")):
        if not isinstance(node, Mapping) or key not in node:
            there = sorted(node) if isinstance(node, Mapping) else "a single array"
            raise KeyError(f"no parameters at '{prefix}': '{key}' is missing (there is: {there})")
        node = node[key]
    return node
