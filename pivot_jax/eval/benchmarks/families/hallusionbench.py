"""HallusionBench (Guan et al. 2024): yes/no questions about figures and edited figures, and without their figure.

Without a judge, which the authors and lmms-eval ask: answers are read as yes or no.
"""

from __future__ import annotations

from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.prompts import asked, with_tail
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.consistency import HALLUSION, HALLUSION_VLMEVALKIT

ANSWERS = {"0": "No", "1": "Yes", "no": "No", "yes": "Yes"}
PARTS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")  # of an index of the TSV
NUMBERS = ("subcategory", "set_id", "figure_id", "question_id", "visual_input")
REQUEST = "\nPlease answer yes or no."


def read(path: str | Path) -> Items:
    """The 951 questions with an image, of lmms-lab/HallusionBench (split image) or VLMEvalKit's HallusionBench.tsv."""
    return _published(path, "image")


def read_all(path: str | Path) -> Items:
    """All 1,129 questions of lmms-lab/HallusionBench (splits image and non_image), or of the authors' JSON file."""
    return _published(path, ("image", "non_image"))


def _published(path: str | Path, split: str | tuple[str, ...]) -> Items:
    return published(path, "HallusionBench", hf=_hub, tsv=_tsv, split=split, tsv_file="HallusionBench")


def _hub(row: Row) -> Item:
    where = {name: row.text(name) for name in PARTS}
    image = row.images("image") or (row.images("filename") if where["visual_input"] != "0" else ())
    return _item(row, image, row.text("gt_answer"), where)


def _tsv(row: Row) -> Item:
    """Set, figure and question are in the index, ``VD_illusion_1_0_0_2``."""
    found = row.id.split("_")
    if len(found) != len(PARTS):
        raise RowError(row.name, f"column 'index' is {shown(row.id)}, not {'_'.join(PARTS)}; get the published file")
    where = dict(zip(PARTS, found, strict=True))
    for name, column in (("category", "category"), ("subcategory", "l2-category")):
        where[name] = row.optional(column) or where[name]
    return _item(row, row.images(), row.text("answer"), where)


def _item(row: Row, image: tuple[object, ...], answer: str, where: dict[str, str]) -> Item:
    if answer.lower() not in ANSWERS:
        raise RowError(row.name, f"the correct answer is {shown(answer)}; write yes or no, or 1 or 0")
    return Item(
        row.id,
        row.text("question"),
        image,
        answers=(ANSWERS[answer.lower()],),
        category=where["category"],
        unit=f"{where['subcategory']}_{where['set_id']}",
        fields={name: where[name] for name in NUMBERS},
    )


def _requested(item: Item) -> str:
    return asked(item, item.question.strip() + REQUEST)


OURS = Variant(_requested, "yes_no", HALLUSION, note="no judge: an answer that is neither yes nor no is wrong")
BENCHMARKS = {
    "hallusionbench": Benchmark(
        read,
        {
            "ours": OURS,
            "lmms-eval": Variant(
                with_tail(),
                "yes_no_within",
                HALLUSION,
                128,
                LMMS_EVAL_STOP,
                note="GPT-4 judges its answers; here its own rule without a judge: an answer with 'yes' in it is yes",
            ),
            "vlmevalkit": Variant(with_tail(), "yes_no_words", HALLUSION_VLMEVALKIT, VLMEVALKIT_TOKENS),
        },
        answer_format="yes_no",
        questions=951,
    ),
    "hallusionbench_all": Benchmark(read_all, {"ours": OURS}, answer_format="yes_no", questions=1129),
}
