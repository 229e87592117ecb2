"""MMMU (Yue et al. 2024): 900 questions of 30 college subjects with up to seven images in the text; validation.

``<image n>`` in a question or an option is where the n-th image goes. The toolkits differ in which images they show:
lmms-eval gives the images in the order of their numbers, also where the text names the second one first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import literal_list
from pivot_jax.eval.benchmarks.choice_prompts import vlmevalkit_choice
from pivot_jax.eval.benchmarks.prompts import LETTER, WORD, asked, lettered
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.guesses import WITH_GUESSES
from pivot_jax.eval.scoring.parse import LETTERS

IMAGES = tuple(f"image_{number}" for number in range(1, 8))
MULTIPLE_CHOICE = "multiple-choice"
_MARK = re.compile(r"<image (\d+)>")
_ID = re.compile(r"[^_]+_(.+)_\d+")
_QUOTED = re.compile(r"'(.*?)'")


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/MMMU (split validation), or the validation rows of VLMEvalKit's MMMU_DEV_VAL.tsv.

    The category is the subject. Open questions have no options.
    """
    return published(
        path,
        "MMMU",
        hf=lambda row: _item(
            row, row.options("options"), row.images(*(name for name in IMAGES if row.values.get(name)))
        ),
        tsv=lambda row: _item(row, row.options(), row.images()),
        split="validation",
        tsv_file="MMMU_DEV_VAL",
        id_key="id",
        tsv_where=("split", "validation"),
    )


def _item(row: Row, choices: tuple[str, ...], images: tuple[Any, ...]) -> Item:
    named = _ID.fullmatch(row.optional("id") or row.id)
    item = Item(
        row.id,
        row.text("question"),
        images,
        choices=choices,
        category=row.optional("category") or (named[1] if named else ""),
    )
    if marks := [number for number in _numbers(item) if not 1 <= number <= len(images)]:
        raise RowError(
            row.name, f"the text names <image {marks[0]}>, and the row has {len(images)}; add the image or correct it"
        )
    if choices:
        return replace(item, answers=(row.letter(choices, "letter"),))
    if row.optional("question_type") == MULTIPLE_CHOICE:
        raise RowError(row.name, "a question of type 'multiple-choice' without options; add them")
    answer = row.text("answer")
    golds = literal_list(answer)
    fields = {} if golds is None else {"published_answer": answer}
    return replace(item, answers=(answer,) if golds is None else tuple(map(str, golds)), fields=fields)


def _numbers(item: Item) -> list[int]:
    """Numbers of the images that question and options name, in their order."""
    return [int(number) for number in _MARK.findall("\n".join((item.question, *item.choices)))]


def _in_order(item: Item) -> Item:
    """With the images in the order in which the text names them; all of them where it names none."""
    named = _numbers(item)
    return replace(item, images=tuple(item.images[number - 1] for number in named)) if named else item


def _by_number(item: Item) -> Item:
    """With the named images by their numbers (as texts), each once; none where the text names none."""
    tokens = sorted({str(number) for number in _numbers(item)})
    return replace(item, images=tuple(item.images[int(token) - 1] for token in tokens))


def _inline(text: Callable[[Item], str]) -> Callable[[Item], str]:
    """A prompt with ``<image>`` in place of each ``<image n>``; before the text where it has none."""
    return lambda item: asked(item, _MARK.sub("<image>", text(replace(item, images=()))))


def _request(item: Item) -> str:
    return LETTER if item.choices else WORD


def _plain(item: Item) -> str:
    return f"{item.question}{lettered(item.choices)}{_request(item)}"


def _lmms_eval(item: Item) -> str:
    """The text is cut at the marks, each piece is stripped, and pieces beyond the last shown image are left out."""
    pieces = _MARK.split(f"{item.question}{lettered(item.choices)}\n{_request(item)}")[::2]
    text = ""
    for piece in pieces[: min(len(item.images), len(pieces) - 1)]:
        text += piece.strip()
        text += "<image>" if text.replace("<image>\n", "") else "<image>\n"
    return text + pieces[-1].strip()


def _cambrian(item: Item) -> str:
    """Its options are what stands between single quotes in the published list, so an apostrophe shifts them."""
    text = item.question
    if item.choices:
        found = _QUOTED.findall(repr(list(item.choices)))
        text += " Options:" + "".join(f"\n{letter}. {one}" for letter, one in zip(LETTERS, found, strict=False))
    return _MARK.sub("", asked(item, text + _request(item))).strip()


BENCHMARKS = {
    "mmmu": Benchmark(
        read,
        {
            "ours": Variant(_inline(_plain), "mmmu", WITH_GUESSES, 32, shown=_in_order),
            "cambrian": Variant(_cambrian, "mmmu_cambrian", WITH_GUESSES, 512, first_image=True),
            "lmms-eval": Variant(
                _lmms_eval,
                "mmmu_lmms_eval",
                WITH_GUESSES,
                128,
                LMMS_EVAL_STOP,
                note="its chat form, as of 0.7.3; its guess is not seeded, ours is by the question's id. Up to 0.7.2 "
                "every open question is wrong (scorer mmmu_lmms_eval_072)",
                shown=_by_number,
            ),
            "vlmevalkit": Variant(
                _inline(vlmevalkit_choice),
                "mmmu_vlmevalkit",
                WITH_GUESSES,
                VLMEVALKIT_TOKENS,
                note="no judge: what the rules leave open is wrong; an open question has the options gold and other",
                shown=_in_order,
            ),
        },
        answer_format="letter",
        option_form="letter",
        questions=900,
    )
}
