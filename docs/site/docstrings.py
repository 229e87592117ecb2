"""Docstrings are written for Sphinx and for people; this is what mkdocstrings needs of them."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|mod|meth|data|attr|exc):(?=`)")
RETURNS = re.compile(r"^Returns:\n((?:[ ]+\S.*\n?|\n(?=[ ]+\S))+)", re.MULTILINE)


def for_markdown(text: str) -> str:
    """Without Sphinx's roles, and with what is returned as text: the signature has its type."""
    text = ROLE.sub("", text).replace("::\n", ":\n")
    return RETURNS.sub(lambda match: f"**Returns:** {textwrap.dedent(match[1]).strip()}\n", text)


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = for_markdown(obj.docstring.value)
