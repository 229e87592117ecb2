"""TextVQA (Singh et al. 2019): questions about text in images, with ten answers each; validation.

Cambrian and LLaVA put the words that an OCR program read into the prompt. The others do not, which asks more of a
model.
"""

from __future__ import annotations

from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import WORD, asked, with_tail
from pivot_jax.eval.benchmarks.published import published, tsv_answers
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_TOKENS, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/textvqa (split validation) or of VLMEvalKit's TextVQA_VAL.tsv, which has no OCR words.

    A unit is an image.
    """
    return published(
        path, "TextVQA", hf=_hub, tsv=_tsv, split="validation", tsv_file="TextVQA_VAL", id_key="question_id"
    )


def _hub(row: Row) -> Item:
    answers, tokens = row.texts("answers"), row.texts("ocr_tokens")
    return Item(
        row.id,
        row.text("question"),
        row.images(),
        answers=answers,
        unit=row.text("image_id"),
        fields={"ocr_tokens": list(tokens)},
    )


def _tsv(row: Row) -> Item:
    unit = row.optional("image_path") or row.image_row()
    return Item(row.id, row.text("question"), row.images(), answers=tsv_answers(row), unit=unit)


def _tokens(item: Item) -> list[str]:
    if "ocr_tokens" not in item.fields:
        raise RowError(item.id, "this toolkit's prompt has OCR words, which the TSV lacks; read lmms-lab/textvqa")
    return list(item.fields["ocr_tokens"])


def _capitalised(item: Item) -> str:
    """The first letter in upper case, and all others in lower case: "in the USA" becomes "in the usa"."""
    return asked(item, item.question.capitalize() + WORD)


def _cambrian(item: Item) -> str:
    words = "".join(f" {token}" if at == 0 else f", {token}" for at, token in enumerate(_tokens(item)))
    return asked(item, f"{item.question}\nReference OCR tokens:{words}{WORD}")


def _llava(item: Item) -> str:
    return asked(item, f"{item.question.capitalize()}\nReference OCR token: {', '.join(_tokens(item))}{WORD}")


BENCHMARKS = {
    "textvqa": Benchmark(
        read,
        {
            "ours": Variant(with_tail(WORD), "vqa", CLUSTERED_MEAN),
            "cambrian": Variant(_cambrian, "vqa", CLUSTERED_MEAN, 512),
            "lmms-eval": Variant(_capitalised, "vqa", CLUSTERED_MEAN, LMMS_EVAL_TOKENS, ("ASSISTANT:",)),
            "vlmevalkit": Variant(with_tail(WORD), "vqa_vlmevalkit", CLUSTERED_MEAN, VLMEVALKIT_TOKENS),
            "llava": Variant(
                _llava, "vqa", CLUSTERED_MEAN, 128, note="OCR words of the data set; its question file has Rosetta's"
            ),
        },
        answer_format="short",
        questions=5000,
    )
}
