"""Captions: COCO (Chen et al. 2015; the 5,000 images of val2017) and DetailCaps-4870 (Dong et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import literal_list, shown
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.caption_metrics import coco

ONE_SENTENCE = "Provide a one-sentence caption for the provided image."
IN_GENERAL = (
    "Please describe this image in general. Directly provide the description, do not include prefix like "
    '"This image depicts". '
)
IN_DETAIL = "Describe this image in detail."
REFERENCES = ("GT_Caption_GPT4O", "GT_Caption_GPT4V", "GT_Caption_Gemini15Pro")

NO_JAVA = "where Java is missing, captions are not tokenized, METEOR is left out, and the names of all metrics say so"
NO_CAPTURE = "CAPTURE only where the package capture-metric is installed, else CIDEr with the same three references"


def read_coco(path: str | Path) -> Items:
    """Images of lmms-lab/COCO-Caption2017 (split val) or of VLMEvalKit's COCO_VAL.tsv, with their references."""
    return published(path, "COCO captions", hf=_coco, tsv=_coco, split="val", tsv_file="COCO_VAL", id_key="question_id")


def _coco(row: Row) -> Item:
    found = row.values.get("answer")
    references = literal_list(found) if isinstance(found, str) else found
    if not isinstance(references, list | tuple) or not references or not all(isinstance(o, str) for o in references):
        raise RowError(row.name, f"column 'answer' is {shown(found)}, not a list of captions (also as JSON or Python)")
    return Item(row.id, row.optional("question"), row.images(), answers=tuple(references))


def read_detailcaps(path: str | Path) -> Items:
    """Images of foundation-multimodal-models/DetailCaps-4870 (split test) with three captions, of three models."""
    return published(path, "DetailCaps", hf=_detailcaps, tsv=None, split="test", id_key="image", repeated=True)


def _detailcaps(row: Row) -> Item:
    references = tuple(row.text(column) for column in REFERENCES)
    return Item(row.id, "", row.images("binary"), answers=references, fields=row.fields("source"))


def _words(text: str) -> Callable[[Item], str]:
    return lambda item: asked(item, text)


_variant = partial(Variant, scorer="caption")

BENCHMARKS = {
    "coco-captions": Benchmark(
        read_coco,
        {
            "ours": _variant(_words(ONE_SENTENCE), aggregate=coco(), max_new_tokens=64, note=NO_JAVA),
            "lmms-eval": _variant(
                _words(ONE_SENTENCE), aggregate=coco(tokenizer=True), max_new_tokens=64, stop=LMMS_EVAL_STOP
            ),
            "vlmevalkit": _variant(
                _words(IN_GENERAL), aggregate=coco(tokenizer=False), max_new_tokens=VLMEVALKIT_TOKENS
            ),
        },
        answer_format="free",
        questions=5000,
    ),
    "detailcaps": Benchmark(
        read_detailcaps,
        {
            "ours": _variant(
                _words(IN_DETAIL),
                aggregate=coco(capture=True),
                max_new_tokens=512,
                note=f"{NO_CAPTURE}; {NO_JAVA}",
            ),
            "lmms-eval": _variant(
                _words(IN_DETAIL),
                aggregate=coco(tokenizer=True, capture=True),
                max_new_tokens=512,
                stop=LMMS_EVAL_STOP,
                note=NO_CAPTURE,
            ),
        },
        answer_format="free",
        questions=4870,
    ),
}
