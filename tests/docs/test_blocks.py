"""Every code block of the documentation: its commands parse, its Python compiles, and it says why if it is not run."""

from __future__ import annotations

import ast
import re

import pytest

import pivot_jax as pj
from pivot_jax import config
from pivot_jax.cli import arguments
from pivot_jax.errors import UserError
from pivot_jax.study import matrix
from tests.docs import pages

BLOCKS = pages.all_blocks()
FILES = {block.title for block in BLOCKS if block.title}  # that a page has its reader write
WRITTEN = ("runs/", "mine/", "my_study")  # by an earlier command of a page, or by the reader
COMMANDS = [
    pytest.param(block, words, id=f"{block}-{' '.join(words)[:60]}")
    for block in BLOCKS
    if block.language == "bash"
    for words in pages.commands(block)
]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def test_every_page_has_its_blocks_read():
    """A fence that the reader of blocks does not see would be neither run nor checked."""
    fences = sum((pages.ROOT / page).read_text(encoding="utf-8").count("\n```") for page in pages.pages())
    assert fences == 2 * len(BLOCKS) and len(COMMANDS) > 100 and len(PYTHON) > 15
    assert {block.language for block in BLOCKS} <= {"bash", "python", "text", "json", "yaml", ""}
    shown = [block for block in BLOCKS if not block.language and "pivot-jax" in block.code]
    assert not shown, f"{shown[0]}: name the language of a block with commands, bash"


@pytest.mark.parametrize(("block", "words"), COMMANDS)
def test_a_command_parses_and_its_config_loads(block, words, monkeypatch, capsys):
    """With the real parsers, and with its ``--config.KEY=VALUE`` where the config is one of the package."""
    monkeypatch.chdir(pages.ROOT)
    try:
        args, overrides = arguments.parse(arguments.build_parser("0"), words)
    except SystemExit as end:
        assert end.code == 0, f"{block}: {capsys.readouterr().err}"  # --help
        return
    assert args.command == words[0]
    spec = getattr(args, "config", None) or ""
    if spec and spec.partition(":")[0] not in FILES and not spec.startswith(WRITTEN):
        config.load(spec, overrides)
    if args.command == "study" and not args.study.startswith(WRITTEN):
        matrix.read(args.study)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=str)
def test_the_other_commands_of_a_block_exist(block):
    """Targets of make, scripts of this repository, and configs that ``--copy`` names."""
    targets = re.findall(r"^([a-z][a-z-]*):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in pages.command_lines(block):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, f"{block}: no make {target}"
        for script in re.findall(r"(?:^|\s)((?:launch|benchmarks|tests)/[\w./-]+)", line):
            assert (pages.ROOT / script).exists(), f"{block}: no {script}"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_names_what_there_is(block):
    """Its syntax is right, and ``pj.NAME`` and ``pj.probe.NAME`` are public."""
    tree = ast.parse(block.code, str(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pj":
            assert node.attr in pj._PUBLIC, f"{block}: pj.{node.attr}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pj.probe":
            assert node.attr in dir(pj.probe), f"{block}: pj.probe.{node.attr}"


def test_a_config_of_a_page_loads(tmp_path):
    """Each file that a page has its reader write and that is a config; some include others."""
    written = [block for block in PYTHON if block.title]
    for block in written:
        (tmp_path / block.title).write_text(block.code, encoding="utf-8")
    configs = [block.title for block in written if "def get_config" in block.code]
    assert "own.py" in configs and len(configs) > 3
    for name in configs:
        try:
            config.load(str(tmp_path / name))
        except UserError as error:
            pytest.fail(f"{name}: {error}")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason], ids=str)
def test_a_reason_is_one(block):
    """What a block that is not run needs, in words."""
    assert block.language in pages.RUN, f"{block}: only bash and python blocks are run"
    assert re.match(r"(needs|installs|takes|downloads|hours|an hour|compiles|reads|shows)\b", block.reason), (
        block.reason
    )
    assert not block.title, f"{block}: a block with a title is a file, which is never run"


MARKED = """\
<!-- not run: needs a GPU -->
```bash
nvidia-smi
```

```python title="x.py"
1
```
```bash
ls
```
"""


def test_markers_are_read():
    gpu, file, run = pages.blocks("page.md", MARKED)
    assert (gpu.reason, gpu.runs, file.title, file.runs, run.runs) == ("needs a GPU", False, "x.py", False, True)
    with pytest.raises(ValueError, match="never closed"):
        pages.blocks("page.md", "```bash\nls\n")
    with pytest.raises(ValueError, match="not before a block"):
        pages.blocks("page.md", "<!-- not run: needs a GPU -->\ntext\n")


def test_commands_of_a_block_are_found():
    code = "cd x && pivot-jax train --config a.py \\\n    --workdir w  # why\n"
    code += 'ssh host "cd x && pivot-jax plan --config b.py" > log\n'
    block = pages.Block("page.md", 1, "bash", "", "", code)
    assert pages.commands(block) == [["train", "--config", "a.py", "--workdir", "w"], ["plan", "--config", "b.py"]]
