"""The code blocks of the documentation, and running them.

A ``bash`` or ``python`` block is run, in order with the others of its page, by ``test_pages_run.py``. What cannot be
run in a test, because it needs hardware, downloads or a long time, has a comment before it that says so::

    <!-- not run: needs eight GPUs -->

A block with a title (```` ```python title="own.py" ````) is a file of the reader: it is written, not run. Blocks of
other languages (``text``, ``json``, ``yaml`` without a title) show something, and nothing is done with them.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("docs/parity.md", "docs/torture.md")  # by commands; they hold no blocks
REPORTS = ("docs/study/", "docs/study-real/", "docs/scheme-example/")
FENCE = re.compile(r"(?P<indent> *)```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\s*$")
MARKER = re.compile(r"\s*<!-- not run: (?P<reason>.+) -->\s*$")
RUN = ("bash", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``reason`` says why it is not run, and is empty where it is."""

    page: str
    line: int
    language: str
    title: str
    reason: str
    code: str

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.title and not self.reason

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that people read, as paths from the repository's root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"]
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if not name.startswith(REPORTS)]


def blocks(page: str, text: str | None = None) -> list[Block]:
    """Raises ValueError for a fence that is never closed, or a marker without a block."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines() if text is None else text.splitlines()
    found, at, reason, marked = [], 0, "", 0
    while at < len(lines):
        if marker := MARKER.match(lines[at]):
            reason, marked = marker["reason"], at + 1
        elif opening := FENCE.match(lines[at]):
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == "```"), None)
            if end is None:
                raise ValueError(f"{page}:{at + 1}: this block is never closed")
            code = "\n".join(line.removeprefix(opening["indent"]) for line in lines[at + 1 : end]) + "\n"
            found.append(Block(page, at + 1, opening["language"], opening["title"] or "", reason, code))
            at, reason = end, ""
        elif lines[at].strip() and reason:
            raise ValueError(f"{page}:{marked}: 'not run' is not before a block")
        at += 1
    return found


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


def command_lines(block: Block) -> list[str]:
    """The lines of a bash block, continued ones joined, without comments."""
    joined = block.code.replace("\\\n", " ").splitlines()
    bare = [re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in joined]
    return [line for line in bare if line]


def commands(block: Block) -> list[list[str]]:
    """The words of every ``pivot-jax`` command in a bash block, from its subcommand on."""
    found = []
    for line in command_lines(block):
        for part in re.split(r" && |; (?=pivot-jax)", line):
            for text in re.findall(r"pivot-jax ((?:[a-z]|--).*)$", part):
                # inside a quoted remote command the last quote is not ours
                text = text.rpartition('"')[0] if text.count('"') % 2 else text
                words = shlex.split(text)
                end = next((n for n, word in enumerate(words) if word in (">", "|")), len(words))
                found.append(words[:end])
    return found


def run(page: str, folder: Path) -> None:
    """Does in ``folder`` what a reader of the page does: writes its files, and runs its blocks in their order.

    Raises AssertionError with a block's output where it fails.
    """
    for block in blocks(page):
        if block.title:
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code, encoding="utf-8")
        elif block.runs:
            words = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
            done = subprocess.run(
                [*words, block.code], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=1800
            )
            shown = f"{block}\n{done.stdout}\n{done.stderr}"
            assert done.returncode == 0, f"exit code {done.returncode}: {shown}"
            assert "WARNING" not in done.stderr, f"a warning of a library, which a reader can do nothing about: {shown}"


def environment(folder: Path) -> dict[str, str]:
    """That of a reader: ``pivot-jax`` and ``python`` are this checkout's, wherever the folder is."""
    programs = folder / ".programs"
    if not programs.exists():
        programs.mkdir(parents=True)
        for name, words in {"pivot-jax": f"{sys.executable} -m pivot_jax.cli", "python": sys.executable}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return dict(os.environ, PATH=path, PYTHONPATH=str(ROOT), XLA_FLAGS="", HF_HUB_OFFLINE="1")
