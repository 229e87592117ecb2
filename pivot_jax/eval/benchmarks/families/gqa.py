"""GQA (Hudson and Manning 2019): compositional questions about real images, answered in a word; testdev, balanced."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pivot_jax.data.sources.rows import open_rows
from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks import image_cells
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import WORD, with_tail
from pivot_jax.eval.benchmarks.published import column, published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN

QUESTIONS, IMAGES, SPLIT = "testdev_balanced_instructions", "testdev_balanced_images", "testdev"


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/GQA, whose images are a configuration of their own, or of GQA_TestDev_Balanced.tsv.

    A unit is an image.
    """
    images = Images(path)

    def convert(row: Row) -> Item:
        image = row.text("imageId")
        types = row.values.get("types")
        return Item(
            row.id,
            row.text("question"),
            images.of(image, row.name),
            answers=(row.text("answer"),),
            category=str(types.get("structural") or "") if isinstance(types, Mapping) else "",
            unit=image,
        )

    return published(
        path, "GQA", hf=convert, tsv=_tsv, split=SPLIT, config=QUESTIONS, tsv_file="GQA_TestDev_Balanced", id_key="id"
    )


class Images:
    """Images by their id, of the configuration that holds each once; it is opened when the first is asked for."""

    def __init__(self, path: str | Path):
        self._path = path

    @cached_property
    def _rows(self) -> Any:
        return open_rows(self._path, SPLIT, IMAGES)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {str(name): position for position, name in enumerate(column(self._rows, "id"))}

    def of(self, name: str, row: str) -> tuple[Any, ...]:
        """The image of this id. Raises RowError where the set has none."""
        if name not in self._positions:
            raise RowError(row, f"column 'imageId' is '{name}', and {IMAGES} has no such image; get the data set again")
        return image_cells.images(self._rows[self._positions[name]].get("image"), row)


def _tsv(row: Row) -> Item:
    return Item(
        row.id,
        row.text("question"),
        row.images(),
        answers=(row.text("answer"),),
        category=row.optional("category"),
        unit=row.optional("image_path") or row.image_row(),
    )


BENCHMARKS = {
    "gqa": Benchmark(
        read,
        {
            "ours": Variant(with_tail(WORD), "exact", CLUSTERED_MEAN),
            "cambrian": Variant(with_tail(WORD), "exact_cambrian", CLUSTERED_MEAN, 128),
            "lmms-eval": Variant(with_tail(WORD), "exact_lmms_eval", CLUSTERED_MEAN, 16, LMMS_EVAL_STOP),
            "vlmevalkit": Variant(with_tail(WORD), "exact_vlmevalkit", CLUSTERED_MEAN, VLMEVALKIT_TOKENS),
            "llava": Variant(with_tail(WORD), "exact_cambrian", CLUSTERED_MEAN, 128),
        },
        answer_format="short",
        questions=12578,
    )
}
