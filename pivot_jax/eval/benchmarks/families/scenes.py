"""The test questions of the built-in scenes data set; the category is the kind of question."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data import sources
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Benchmark, Items, Variant, contents, existing_folder
from pivot_jax.eval.benchmarks.examples import AsItems
from pivot_jax.eval.benchmarks.prompts import with_tail


def read(path: str | Path) -> Items:
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
    return AsItems(sources.read({"format": "tfds", "path": str(prepared[0]), "split": "test"}), category="kind")


BENCHMARKS = {
    "scenes": Benchmark(
        read, {"ours": Variant(with_tail(), "exact", max_new_tokens=32)}, answer_format="short", option_form="text"
    ),
}
