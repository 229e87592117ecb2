"""The messages that docs/troubleshooting.md explains are messages of the program."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.+?)`(?: \(.+\))?$", PAGE, re.MULTILINE)


def texts() -> list[str]:
    """Every string of the package as it is shown, with … for what is filled in."""
    found = []
    for path in (ROOT / "pivot_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[\d.]*[a-z]", "…", node.value))
    return found


TEXTS = "\n".join(texts())


@pytest.mark.parametrize("message", MESSAGES)
def test_an_explained_message_exists(message):
    """Each of its parts between … is in the package, word for word."""
    for part in filter(None, (piece.strip(" :;,(){}'\".") for piece in message.split("…"))):
        assert len(part) < 4 or part in TEXTS, f"no message has {part!r}"


def test_the_page_explains_messages():
    assert len(MESSAGES) > 35
