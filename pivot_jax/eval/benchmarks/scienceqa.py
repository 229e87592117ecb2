"""ScienceQA (Lu et al. 2022): multiple choice with an image and a hint, asked as Cambrian's evaluation code asks it."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data import sources
from pivot_jax.eval.benchmarks.base import Benchmark, Questions, check_first, question_file
from pivot_jax.eval.scoring import scorers


def read(path: str | Path) -> Questions:
    """Questions of a file, or of ``data.jsonl`` in a folder; the data source ``scienceqa`` writes the prompt.

    Raises:
      UserError: no such file, or one of another form.
    """
    file = question_file(path, "ScienceQA")
    source = sources.read({"format": "scienceqa", "path": str(file)})
    check_first(source, file, "ScienceQA", "id, question, choices, answer and mostly image and hint")
    return source


BENCHMARKS = {
    "scienceqa": Benchmark(
        read,
        scorers.scienceqa,
        answer_format="letter",
        max_new_tokens=16,
        option_form="letter",
        strict_scorer=scorers.strict_letter,
    )
}
