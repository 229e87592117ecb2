"""ScienceQA (Lu et al. 2022): multiple choice with an image and a hint."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data import sources
from pivot_jax.eval.benchmarks.base import Benchmark, Items, Variant, check_first, question_file
from pivot_jax.eval.benchmarks.examples import AsItems
from pivot_jax.eval.benchmarks.prompts import with_tail


def read(path: str | Path) -> Items:
    """Questions of a file, or of ``data.jsonl`` in a folder; the data source ``scienceqa`` writes the prompt.

    Raises:
      UserError: no such file, or one of another form.
    """
    file = question_file(path, "ScienceQA")
    source = sources.read({"format": "scienceqa", "path": str(file)})
    check_first(source, file, "ScienceQA", "id, question, choices, answer and mostly image and hint")
    return AsItems(source)


BENCHMARKS = {
    "scienceqa": Benchmark(
        read,
        {
            "ours": Variant(with_tail(), "strict_letter", max_new_tokens=16),
            "cambrian": Variant(with_tail(), "scienceqa", max_new_tokens=512),
        },
        answer_format="letter",
        option_form="letter",
    )
}
