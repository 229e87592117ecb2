"""Keys of earlier versions: how an old run's config.json is read, and the keys that replace them.

A key is either translated, where a run's ``config.json`` is read, or named in the error of a config file or command
line that sets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]


def _stage(content: Content) -> None:
    if content.pop("stage") == "contrastive":  # objective.name was not read then; elsewhere the two had to agree
        content.setdefault("objective", {})["name"] = "contrastive"


def _gamma(content: Content) -> None:
    section = content["objective"]
    gamma = section.pop("gamma")
    if gamma and section.get("name") == "dpo":  # no other objective read it
        section["terms"] = (("sigmoid", 1.0), ("sft", gamma))


def _pack(content: Content) -> None:
    section = content["data"]
    section["packing"] = section.pop("pack")


# dotted key → (what to write instead, translation of a nested config in place), in the order of translation
RETIRED: dict[str, tuple[str, Callable[[Content], None]]] = {
    "stage": ("objective.name is the key; it alone says what is trained for (contrastive, sft, dpo, …)", _stage),
    "objective.gamma": ("it is a term now: objective.terms=(('sigmoid', 1.0), ('sft', GAMMA))", _gamma),
    "data.pack": ("data.packing is the key: rows per sequence", _pack),
}


def _renamed_losses(content: Content) -> None:
    """The loss "bco" of ``objective.terms`` has TRL's name now."""
    section = content.get("objective")
    if isinstance(section, dict) and isinstance(section.get("terms"), list):
        old = [isinstance(term, list) and term[:1] == ["bco"] for term in section["terms"]]
        section["terms"] = [
            ["bco_pair", *term[1:]] if renamed else term for term, renamed in zip(section["terms"], old, strict=True)
        ]


def translate(content: Content) -> Content:
    """``content`` of a run's config.json (nested, of any version) with the keys of this version; changed in place."""
    for key, (_, change) in RETIRED.items():
        *parents, last = key.split(".")
        node: Any = content
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            change(content)
    _renamed_losses(content)
    return content
