"""The table of benchmarks in the documentation is that of the suite; running this file writes it."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.eval import averages
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.toolkits import TOOLKITS

PAGE = Path(__file__).parents[3] / "docs" / "benchmarks.md"
START, END = "<!-- table -->\n", "<!-- /table -->\n"


def rendered() -> str:
    names = list(TOOLKITS)
    lines = [f"| benchmark | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for name, benchmark in suite.BENCHMARKS.items():
        marks = ("yes" if toolkit in benchmark.variants else "" for toolkit in names)
        lines.append(f"| `{name}` | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def test_the_page_lists_every_benchmark_with_its_toolkits():
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == rendered()


def test_the_paper_s_sixteen_are_there_as_the_paper_s_suite_has_them():
    names = [name for members in averages.GROUPS.values() for name in members]
    assert len(names) == 16 and all("cambrian" in suite.BENCHMARKS[name].variants for name in names)


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}{rendered()}{END}{after.partition(END)[2]}", encoding="utf-8")
