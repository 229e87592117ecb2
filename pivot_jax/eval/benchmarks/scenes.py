"""The test questions of the built-in scenes data set; the category is the kind of question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pivot_jax.data import sources
from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Benchmark, Questions, contents, existing_folder
from pivot_jax.eval.scoring import scorers


def read(path: str | Path) -> Questions:
    """The split ``test`` of a prepared data set's folder.

    Raises:
      UserError: the folder is not a prepared data set.
    """
    folder = existing_folder(path, "scenes")
    if not (folder / "dataset_info.json").is_file():
        raise UserError(
            f"scenes: {folder} holds no dataset_info.json{contents(folder)}; name the folder of a prepared data set, "
            "such as the demo's WORKDIR/data/…"
        )
    return _Categorised(sources.read({"format": "tfds", "path": str(path), "split": "test"}))


class _Categorised:
    """The examples of a data source with their field ``kind`` as the category."""

    def __init__(self, source: Questions):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return replace(example, extra={**example.extra, "category": example.extra.get("kind", "")})


BENCHMARKS = {
    "scenes": Benchmark(read, scorers.exact, answer_format="short", max_new_tokens=32, option_form="text"),
}
