"""MathVerse (Zhang et al. 2024): 788 problems of geometry and functions, each in five versions.

A version has more or less of the problem in the image; it is the category. Intervals draw problems, whose versions are
questions about the same thing. Options are part of the text, and the answer to multiple choice may be several letters.
"""

from __future__ import annotations

from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN

KINDS = {
    "multi-choice": "multi-choice",
    "free-form": "free-form",
    "multi_choice": "multi-choice",
    "free_form": "free-form",
}
LETTER_HINT = "Please directly answer the question and provide the correct option letter, e.g., A, B, C, D."
HINT = "Please directly answer the question and provide the final value."
NO_JUDGE = "a judge reads and scores every answer there; without it, only an answer that is the gold exactly is right"


def read(path: str | Path) -> Items:
    """Questions of CaraJ/MathVerse-lmmseval (configuration and split testmini), or of VLMEvalKit's MathVerse_MINI.tsv.

    Rows of the authors' website are read too: question, choices, image, metadata.problem_version.
    """
    return published(
        path, "MathVerse", hf=_hub, tsv=_tsv, split="testmini", config="testmini", tsv_file="MathVerse_MINI",
        id_key="" if _of_site(path) else "sample_index",
    )  # fmt: skip


def _of_site(path: str | Path) -> bool:
    return Path(path).suffix in (".json", ".jsonl") or (Path(path) / "rows.jsonl").is_file()


def _hub(row: Row) -> Item:
    if "query_wo" in row.values:
        return _item(row, row.optional("question"), row.text("query_wo"), row.optional("problem_version"))
    about = row.values.get("metadata")
    version = about.get("problem_version", "") if isinstance(about, dict) else ""
    question = "\n".join((row.optional("question").rstrip("\n"), *row.options("choices")))
    hint = LETTER_HINT if row.options("choices") else HINT
    return _item(row, question, f"{hint}\nQuestion: {question}", str(version))


def _tsv(row: Row) -> Item:
    """VLMEvalKit's column ``question`` is the query."""
    query = row.text("question")
    _, mark, question = query.partition("\nQuestion:")
    return _item(row, question.strip() if mark else query, query, row.optional("problem_version"))


def _item(row: Row, question: str, query: str, version: str) -> Item:
    kind = row.text("question_type")
    if kind not in KINDS:
        raise RowError(row.name, f"column 'question_type' is {shown(kind)}, not multi-choice or free-form; correct it")
    problem = row.optional("problem_index")
    return Item(
        row.id,
        question,
        row.images(),
        answers=(row.text("answer"),),
        category=version,
        unit=problem or row.id,
        fields={"question_type": KINDS[kind]},
        text=query,
    )


BENCHMARKS = {
    "mathverse": Benchmark(
        read,
        {
            "ours": Variant(lambda item: asked(item, item.text), "mathverse", CLUSTERED_MEAN, 512),
            "lmms-eval": Variant(
                lambda item: asked(item, item.text.strip()),
                "mathverse_exact",
                CLUSTERED_MEAN,
                16384,
                ("</s>", "Q:", "<|im_end|>"),
                note=NO_JUDGE,
            ),
            "vlmevalkit": Variant(
                lambda item: asked(item, item.text), "mathverse_exact", CLUSTERED_MEAN, VLMEVALKIT_TOKENS, note=NO_JUDGE
            ),
        },
        answer_format="short",
    )
}
