"""ScienceQA (Lu et al. 2022): multiple choice of school science, mostly with an image and a hint; test.

ScienceQA-IMG are the 2,017 of its 4,241 test questions that have an image.
"""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data.sources.base import with_images
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant, question_file
from pivot_jax.eval.benchmarks.choice_prompts import ONLY_LETTER, vlmevalkit_variant
from pivot_jax.eval.benchmarks.prompts import LETTER, asked, lettered
from pivot_jax.eval.benchmarks.published import is_published, published, tsv_answers
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP
from pivot_jax.eval.scoring.aggregate import Aggregate, Scored
from pivot_jax.eval.scoring.parts import Number, numbers

CONFIG = "ScienceQA-IMG"  # of lmms-lab/ScienceQA; the other one, ScienceQA-FULL, has text questions too


def read(path: str | Path) -> Items:
    """Questions of a file, or of ``data.jsonl`` in a folder: id, question, choices, answer, and mostly image and hint.

    Or of lmms-lab/ScienceQA (configuration ScienceQA-IMG, split test), of derek-thomas/ScienceQA (test), or of
    VLMEvalKit's ScienceQA_TEST.tsv. The answer is a letter or an index.

    Raises:
      UserError: no such file, or one of another form.
    """
    if is_published(path) and not (Path(path) / "data.jsonl").is_file():
        config = "" if "derek-thomas" in str(path) else CONFIG
        return published(path, "ScienceQA", hf=_item, tsv=_tsv, split="test", config=config, tsv_file="ScienceQA_TEST")
    return published(question_file(path, "ScienceQA"), "ScienceQA", hf=_item, id_key="id")


def _item(row: Row) -> Item:
    row.text("question")  # a row without one is of another kind, whatever its answer
    choices = row.options("choices")
    form = "index" if isinstance(row.values.get("answer"), int) else "letter"
    return _question(row, choices, (row.letter(choices, form),))


def _tsv(row: Row) -> Item:
    choices = row.options()
    return _question(row, choices, tsv_answers(row, choices))


def _question(row: Row, choices: tuple[str, ...], answers: tuple[str, ...]) -> Item:
    found = row.images()
    return Item(
        row.id,
        row.text("question"),
        found,
        choices=choices,
        answers=answers,
        hint=row.optional("hint"),
        category=row.optional("subject") or row.optional("category"),
        fields={"image": bool(found)},
    )


def _with_image(row: Scored) -> str:
    return "image_accuracy" if row.gold.fields.get("image", True) else ""


def _accuracy(metric: str) -> Aggregate:
    return numbers(metric, {"accuracy": Number(), "": Number(each=_with_image)})


def _ours(item: Item) -> str:
    return _cambrian_text(item, item.hint.strip())


def _cambrian_text(item: Item, hint: str) -> str:
    text = f"{hint} {item.question}" if hint else item.question
    return with_images(text + lettered(item.choices) + ONLY_LETTER, len(item.images))


def _context(item: Item) -> str:
    """lmms-eval's, and LLaVA's."""
    hint = f"Context: {item.hint}\n" if item.hint else ""
    return asked(item, f"{hint}{item.question}{lettered(item.choices)}{LETTER}")


BENCHMARKS = {
    "scienceqa": Benchmark(
        read,
        {
            "ours": Variant(_ours, "strict_letter", _accuracy("accuracy")),
            "cambrian": Variant(
                lambda item: _cambrian_text(item, item.hint),
                "scienceqa",
                _accuracy("image_accuracy"),
                512,
                note="multimodal_acc; its overall accuracy counts image rows twice and is left out",
            ),
            "lmms-eval": Variant(_context, "scienceqa_lmms_eval", _accuracy("accuracy"), 16, LMMS_EVAL_STOP),
            "vlmevalkit": vlmevalkit_variant(_accuracy("accuracy")),
            "llava": Variant(_context, "scienceqa_llava", _accuracy("accuracy"), 1024),
        },
        answer_format="letter",
        option_form="letter",
    )
}
