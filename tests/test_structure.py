"""The project's shape: import order of packages, allowed imports, names, sizes, configs that load."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from pivot_jax import config
from pivot_jax.data.sources import COMMON, FORMATS
from pivot_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    "errors", "words", "packages", "files", "rules", "shapes", "progress", "config", "data", "kernels", "models", "hub",
    "parallel", "rollout", "eval", "objectives", "optim", "train", "probe", "rl", "plan", "report", "launch",
    "twin", "serve", "adapters", "study", "cli",
)  # fmt: skip
# An engine is what samples rollouts (rollout/engine.py), as everywhere in the field; no other class is one.
FORBIDDEN_NAMES = re.compile(r"manager|.engine|engine.|helper|utils?$|registry", re.IGNORECASE)
SOURCES = sorted((ROOT / "pivot_jax").rglob("*.py"))
CONFIGS = sorted(
    p
    for p in (ROOT / "configs").rglob("*.py")
    if p.stem != "study" and p.parent.name != "study" and "common" not in p.stem
)


def package(path: Path) -> str:
    return path.relative_to(ROOT / "pivot_jax").parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, int]]:
    """(dotted module, line) of every import in the file, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import; write the full name"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def test_every_package_is_in_the_order():
    packages = {package(p) for p in SOURCES} - {"__init__"}
    assert packages <= set(ORDER), f"packages that are not in the order: {packages - set(ORDER)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    """A module imports its own package or packages before it; only models import Linen, nothing imports torch."""
    here = package(path)
    for module, line in imported(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        parts = module.split(".")
        if parts[0] == "pivot_jax" and len(parts) > 1 and parts[1] in ORDER and here in ORDER:
            assert ORDER.index(parts[1]) <= ORDER.index(here), f"{where}: '{here}' imports the later '{parts[1]}'"
        assert parts[0] not in ("torch", "torchvision", "tensorflow"), f"{where}: imports {parts[0]}"
        if module.startswith("flax.linen") and here != "models":
            pytest.fail(f"{where}: flax.linen outside models")


def test_compat_tests_import_without_pytorch():
    """`make test-compat` installs no PyTorch: of its folders, only files with parity in their name import it."""
    folders = re.search(r"^COMPAT_TESTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    files = {path for folder in folders for path in (ROOT / folder).glob("*.py") if "parity" not in path.name}
    assert len(files) > 20
    needs = ("torch", "trl", "peft", "tests.tiny.hf", "tests.tiny.qwen")
    for path in sorted(files):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # of the module itself; a test may import PyTorch or skip
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
            wrong = [name for name in names if any(name == need or name.startswith(f"{need}.") for need in needs)]
            assert not wrong, f"{path.relative_to(ROOT)}:{node.lineno}: {wrong}; put parity into the file's name"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes_and_names(path):
    """Files up to 400 lines, functions up to 70, and names that say what a thing does."""
    text = path.read_text(encoding="utf-8")
    where = path.relative_to(ROOT)
    assert len(text.splitlines()) <= 400, f"{where}: {len(text.splitlines())} lines"
    assert not FORBIDDEN_NAMES.search(path.stem), f"{where}: name"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 70, f"{where}:{node.lineno}: {node.name} has {length} lines"
        if isinstance(node, ast.ClassDef):
            assert not FORBIDDEN_NAMES.search(node.name), f"{where}:{node.lineno}: class {node.name}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}:{node.lineno}: bare except"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_import_cycle():
    """Imports inside functions count too: a cycle is one however late it is closed."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {
        name: {
            found
            for imported_name, _ in imported(path)
            for found in (imported_name, imported_name.rpartition(".")[0])
            if found in modules and found != name and not name.startswith(f"{found}.")  # its own package's __init__
        }
        for name, path in modules.items()
    }
    waiting = {name: set(needs) for name, needs in graph.items()}
    while free := [name for name, needs in waiting.items() if not needs]:
        for name in free:
            del waiting[name]
        for needs in waiting.values():
            needs.difference_update(free)
    assert not waiting, f"import cycle among, or behind: {sorted(waiting)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_take_at_most_8_arguments(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            assert count <= 8, f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} takes {count} arguments"


# Words with a standard term in the field, which is used instead. Trained strings keep theirs.
RETIRED = re.compile(
    r"\b(pic" + r"tures?|men" + r"d(s|ed)?|bor" + r"ne|dea" + r"rest|ro" + r"oms?)\b"
    r"|held aga" + r"inst|refused by na" + r"me|goes (ba" + r"ck as|on where|on from)",
    re.IGNORECASE,
)
TRAINED = re.compile(r"(Describe the|colour is) pic" + r"ture")
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "pivot_jax/**/*.py",
        "configs/**/*.py",
        "tests/**/*.py",
        "benchmarks/**/*.py",
        "launch/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and path.name not in ("CHANGELOG.md", "language.py")
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_standard_terms(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = RETIRED.search(TRAINED.sub("", line))
        assert not found, f"{path.relative_to(ROOT)}:{number}: '{found.group()}'; use the field's standard term"


def unfinished(text: str) -> list[str]:
    return re.findall(r"\b(?:TO" + r"DO|FIX" + r"ME|raise Not" + r"ImplementedError)\b", text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_left_for_later(path):
    assert not unfinished(path.read_text(encoding="utf-8"))


def references(module: str, tree: ast.Module) -> dict[str, set[str]]:
    """Dotted name of each function → the names of functions that it uses, and "assert" where it can fail a test."""
    origins = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found: dict[str, set[str]] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            own = found.setdefault(f"{module}.{function.name}", set())
            for node in ast.walk(function):
                if isinstance(node, ast.Name):
                    own.add(origins.get(node.id, f"{module}.{node.id}"))
                if isinstance(node, ast.Attribute):
                    base = getattr(node.value, "id", "")
                    own.add(f"{origins.get(base, module)}.{node.attr}")
                    if node.attr.startswith("assert_") or (
                        base == "pytest" and node.attr in ("raises", "warns", "fail")
                    ):
                        own.add("assert")
                if isinstance(node, ast.Assert) or (isinstance(node, ast.keyword) and node.arg == "check"):
                    own.add("assert")  # check: of subprocess.run
    return found


def without_assertion(trees: dict[str, ast.Module]) -> list[str]:
    """Tests that assert nothing, themselves or by a function of these modules that they use."""
    uses = {name: used for module, tree in trees.items() for name, used in references(module, tree).items()}
    asserting = {"assert"}
    while more := {name for name, used in uses.items() if used & asserting} - asserting:
        asserting |= more
    return sorted(name for name in uses.keys() - asserting if name.rpartition(".")[2].startswith("test_"))


def test_every_test_asserts_something():
    one = "from tests.b import check\ndef test_a():\n    check(1)\ndef test_b():\n    run(1)\ndef run(x):\n    print(x)"
    made_up = {"tests.a": one, "tests.b": "def check(x):\n    same(x)\ndef same(x):\n    assert x == 1"}
    assert without_assertion({module: ast.parse(text) for module, text in made_up.items()}) == ["tests.a.test_b"]
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert without_assertion({module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in tests}) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_config_loads(path):
    """Every config loads, round-trips, and names source formats and keys that exist."""
    loaded = config.load(str(path))
    assert config.from_json(config.to_json(loaded)) == loaded
    assert loaded.data.sources, "a config in the repository names its data"
    for source in loaded.data.sources:
        allowed = {*COMMON, *inspect.signature(FORMATS[source["format"]]).parameters}
        assert set(source) <= allowed, f"unknown source keys {set(source) - allowed}"


@pytest.mark.parametrize(
    "spec", ["stage2_sft.py:script", "stage3.py:0", "stage3.py:2", "stage3_projector.py:2,some/pack"]
)
def test_config_arguments(spec):
    """An argument loads, and changes the config."""
    path = ROOT / "configs" / "pivot" / spec
    assert config.load(str(path)) != config.load(str(path).partition(":")[0])


@pytest.mark.parametrize("spec", ["stage2_sft.py:fast", "stage3.py:3", "stage3.py:1,pack", "stage1a.py:x"])
def test_unknown_config_arguments_are_refused(spec):
    with pytest.raises(UserError):
        config.load(str(ROOT / "configs" / "pivot" / spec))


def test_pivot_configs_are_the_papers():
    """What a config says of the stages: rates per part, batch, epochs, warm-up, decay, clip."""
    load = lambda spec: config.load(str(ROOT / "configs" / "pivot" / spec))  # noqa: E731
    rates = {
        "stage1a.py": (("projector/.*", 1e-3), (".*", "frozen")),
        "stage1b.py": (("vision/.*", 2e-6), (".*", 1e-5)),
        "stage2_sft.py": ((".*", 5e-6),),
        "stage2_sft.py:script": ((".*", 1e-5),),
        "stage2_dpo.py": ((".*", 1e-6),),
        "stage3_projector.py:1": (
            ("vision/.*", "frozen"), ("projector/fc1/.*", "frozen"), ("projector/.*", 1e-3), (".*", "frozen"),
        ),
        "stage3.py:1": (("vision/.*", "frozen"), ("projector/fc1/.*", "frozen"), (".*", 1e-5)),
    }  # fmt: skip
    for spec, rules in rates.items():
        loaded = load(spec)
        assert loaded.optimizer.rules == rules, spec
        assert loaded.data.batch_size == 256 and loaded.train.epochs == (3.0 if "stage2" in spec else 1.0), spec
        optimizer = loaded.optimizer
        assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.weight_decay) == (0.9, 0.999, 1e-8, 0.0)
        assert (optimizer.clip, optimizer.warmup_ratio, optimizer.schedule) == (1.0, 0.03, "cosine")
    dpo, sft = load("stage2_dpo.py"), load("stage2_sft.py")
    assert (dpo.objective.beta, dpo.objective.terms, dpo.objective.label_smoothing) == (0.1, (), 0.0)
    assert dpo.data.sources == sft.data.sources and dpo.init == sft.init
