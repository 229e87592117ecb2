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
    """The split ``test`` of a prepared data set's folder, or of the one data set in a study's folder of data.

    Raises:
      UserError: the folder neither is a prepared data set nor holds exactly one.
    """
    folder = existing_folder(path, "scenes")
    prepared = [
        found.parent for where in ("", "scenes/*/*/") for found in sorted(folder.glob(f"{where}dataset_info.json"))
    ]
    if not prepared:
        raise UserError(
            f"scenes: {folder} holds no dataset_info.json{contents(folder)}; name the folder of a prepared data set, "
            "such as a study's WORKDIR/data"
        )
    if len(prepared) > 1:
        raise UserError(
            f"scenes: {folder} holds several prepared data sets ({', '.join(map(str, prepared))}); name one"
        )
    return _Categorised(sources.read({"format": "tfds", "path": str(prepared[0]), "split": "test"}))


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
