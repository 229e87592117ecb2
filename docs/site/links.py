"""Links between the repository's Markdown files, and between the pages of the site.

A page is written for readers of the repository: its links are relative to its file. On the site the files of the
repository's root are pages too, and what is no page (code, configs) has no address.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Files outside docs/ that are pages of the site
INCLUDED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "design/architecture.md",
    "benchmarks/README.md": "design/speed.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
# Pages that exist only on the site
GENERATED = ("reference/config.md", "reference/online-rl.md", "reference/cli.md")
# A span of code, in which nothing is a link, or a link
LINK = re.compile(r"`[^`]+`|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
SOURCE = re.compile(r'(?P<before><img src=")(?P<target>[^"]+)(?=")')


def is_external(target: str) -> bool:
    return re.match(r"[a-z]+:", target) is not None


def outside_code(text: str, change) -> str:
    """``text`` with ``change`` applied to every line that is not in a fenced block."""
    lines, inside = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            inside = not inside
        lines.append(line if inside else change(line))
    return "\n".join(lines)


def targets(text: str) -> list[str]:
    """Every link and image target outside of code."""
    found: list[str] = []

    def collect(line: str) -> str:
        found.extend(
            match["target"] for pattern in (LINK, SOURCE) for match in pattern.finditer(line) if match["target"]
        )
        return line

    outside_code(text, collect)
    return found


def resolved(target: str, source: str) -> tuple[str, str]:
    """(path from the repository's root, anchor) of a link in the file ``source``."""
    path, _, anchor = target.partition("#")
    folder = posixpath.dirname(source)
    return posixpath.normpath(posixpath.join(folder, path)) if path else source, anchor


def for_site(text: str, source: str, page: str) -> str:
    """The Markdown of the file ``source`` with its links as the site's page ``page`` needs them."""

    def address(target: str) -> str | None:
        path, anchor = resolved(target, source)
        if path in INCLUDED:
            there = INCLUDED[path]
        elif path.startswith("docs/"):
            there = path.removeprefix("docs/")
            if re.match(r"(study|study-real|scheme-example)/report\.md$", there):
                there = there.removesuffix(".md") + ".html"  # the report as it is, not rendered again
        else:
            return None if (ROOT / path).exists() else target
        relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or is_external(target) or target.startswith("#"):
            return match[0]
        there = address(target)
        return match["text"] if there is None else f"{match['image']}[{match['text']}]({there})"

    def image(match: re.Match[str]) -> str:
        return match["before"] + (address(match["target"]) or match["target"])

    return outside_code(text, lambda line: SOURCE.sub(image, LINK.sub(link, line)))
