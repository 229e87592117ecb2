"""MMBench (Liu et al. 2024), English, dev: multiple choice in which every rotation of the options is a row of its own.

A question counts where all of its rotations are right (``circular_accuracy``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import NAN, shown
from pivot_jax.eval.benchmarks.choice_prompts import cambrian_choice, choice, llava_choice, vlmevalkit_variant
from pivot_jax.eval.benchmarks.image_cells import images_key
from pivot_jax.eval.benchmarks.prompts import LETTER, asked, lettered
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_TOKENS
from pivot_jax.eval.scoring.circular import CIRCULAR, CIRCULAR_CAMBRIAN, ROTATION

CONFIG = "en"  # of lmms-lab/MMBench; lmms-lab/MMBench_EN has only one


def read(path: str | Path) -> Items:
    """Rows of lmms-lab/MMBench (configuration en) or MMBench_EN, split dev, or of VLMEvalKit's MMBench_DEV_EN.tsv."""
    config = "" if "MMBench_EN" in str(path) else CONFIG
    return published(
        path, "MMBench", hf=_item, tsv=_item, split="dev", config=config, tsv_file="MMBench_DEV_EN", id_key="index"
    )


def _item(row: Row) -> Item:
    if not row.id.isdecimal():
        raise RowError(
            row.name, f"column 'index' is {shown(row.id)}; it is a number, {ROTATION:,} more in each rotation of a row"
        )
    choices, found = row.options(missing=NAN), row.images()
    question, source = row.text("question"), row.optional("source", NAN)
    fields = {"source_id": _source_id(question, images_key(found), source)}
    if l2_category := row.optional("L2-category") or row.optional("l2-category"):
        fields["l2_category"] = l2_category
    return Item(
        row.id,
        question,
        found,
        choices=choices,
        answers=(row.letter(choices, "letter"),),
        hint=row.optional("hint", NAN),
        category=row.optional("category"),
        unit=int(row.id) % ROTATION,
        fields=fields,
    )


def _source_id(*parts: str) -> str:
    """What Cambrian groups rows by: question, image and source. It hashes pixels of a small image, this the file."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _lmms_eval(item: Item) -> str:
    hint = f"{item.hint} " if item.hint else ""
    return asked(item, f"{hint}{item.question} There are several options:{lettered(item.choices)}\n{LETTER}")


BENCHMARKS = {
    "mmbench": Benchmark(
        read,
        {
            "ours": Variant(choice, "strict_letter", CIRCULAR),
            "cambrian": Variant(cambrian_choice, "letter", CIRCULAR_CAMBRIAN, 512),
            "lmms-eval": Variant(
                _lmms_eval,
                "mmbench_lmms_eval",
                CIRCULAR,
                LMMS_EVAL_TOKENS,
                ("ASSISTANT:",),
                note="rules of mmbench_en_dev_static; mmbench_en_dev asks GPT where the first ones find nothing",
            ),
            "vlmevalkit": vlmevalkit_variant(CIRCULAR),
            "llava": Variant(
                llava_choice,
                "vlmevalkit_option",
                CIRCULAR,
                1024,
                note="LLaVA sends its answers to MMBench's server; these are the server's rules without its judge",
            ),
        },
        answer_format="letter",
        option_form="letter",
    )
}
