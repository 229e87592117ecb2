"""MM-Math (Sun et al. 2024): 5,929 problems of middle schools; the answer is in the box of a worked solution."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pivot_jax.data.sources.base import ImageRoot, rooted
from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import MEAN
from pivot_jax.eval.scoring.solutions import boxed

REQUEST = "\nPlease solve the problem step by step and put the final answer in \\boxed{}."


def read(path: str | Path) -> Items:
    """Problems of THU-KEG/MM_Math (its only split), or of VLMEvalKit's MM-Math.tsv.

    The hub's rows name image files; unpack its Image.zip below the folder of the rows. The category is the difficulty.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return published(path, "MM-Math", hf=lambda row: _hub(row, folder), tsv=_tsv, tsv_file="MM-Math")


def _hub(row: Row, folder: Path) -> Item:
    name = row.text("file_name")
    found = _files(folder).get(name)
    if found is None:
        raise RowError(row.name, f"image {name} is not below {folder}; unpack Image.zip there")
    answer = boxed(row.text("solution"))
    if not answer:
        raise RowError(row.name, "column 'solution' has no closed \\boxed{}, so no answer; leave the row out")
    images = rooted(found, ImageRoot(str(folder)), row.name)
    return _item(row, images, answer, row.optional("difficult"))


@lru_cache(maxsize=4)
def _files(folder: Path) -> dict[str, str]:
    """Name → path below the folder, of all files there."""
    return {path.name: str(path.relative_to(folder)) for path in sorted(folder.rglob("*.*"))}


def _tsv(row: Row) -> Item:
    return _item(row, row.images(), row.text("answer"), row.optional("difficulty"))


def _item(row: Row, images: tuple[object, ...], answer: str, difficulty: str) -> Item:
    fields = row.fields("year", "knowledge", "knowledge_l1", "knowledge_l2")
    return Item(row.id, row.text("question"), images, answers=(answer,), category=difficulty, fields=fields)


BENCHMARKS = {
    "mm-math": Benchmark(
        read,
        {
            "ours": Variant(lambda item: asked(item, item.question + REQUEST), "formula", MEAN, 1024),
            "vlmevalkit": Variant(
                lambda item: asked(item, item.question),
                "mm_math_vlmevalkit",
                MEAN,
                VLMEVALKIT_TOKENS,
                note="its own judge is rules; formulas are read by latex2sympy here and by sympy's parser there",
            ),
        },
        answer_format="short",
    )
}
