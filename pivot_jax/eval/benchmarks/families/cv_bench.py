"""CV-Bench (Tong et al. 2024): 2,638 questions about counts and positions (2D), depths and distances (3D); test.

Its score is an average of three data sets in one of three ways: over all questions (``accuracy``, lmms-eval), over the
sources of a part (``2D``: ADE20K and COCO; ``3D``: Omni3D; VLMEvalKit), and the mean of these two parts
(``parts_mean``, the authors').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.choice_prompts import bracketed, plain_choice, published_text, respond_with
from pivot_jax.eval.benchmarks.prompts import LETTER, asked
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.parts import Number, field_of, numbers

FAMILY = "CV-Bench"
PARTS = ("2D", "3D")
_TYPE, _SOURCE = field_of("type"), field_of("source")
NUMBERS = {
    "parts_mean": Number((_TYPE, _SOURCE)),
    "accuracy": Number(),
    "": Number((_SOURCE,), each=_TYPE),
    "accuracy/": Number(each=_SOURCE),
}


def read(path: str | Path) -> Items:
    """Both parts, as :func:`read_part`; of the two TSVs in a folder the ids become ``2D-0``, ``3D-0``, …"""
    found = [_files(path, part) for part in PARTS]
    if all(found):
        parts = [_published(file, part) for file, part in zip(found, PARTS, strict=True)]
        return Both(parts, [f"{part}-" if _is_tsv(file) else "" for file, part in zip(found, PARTS, strict=True)])
    return published(path, FAMILY, hf=_hub, tsv=_tsv, split="test", config="default", id_key="idx")


def read_part(part: str) -> Callable[[str | Path], Items]:
    """The reader of one part of nyu-visionx/CV-Bench (its files test_2d, test_3d), or of CV-Bench-2D.tsv, -3D.tsv."""
    return lambda path: _published(_files(path, part) or path, part)


def _published(path: str | Path, part: str) -> Items:
    return published(
        path,
        f"{FAMILY} {part}",
        hf=_hub,
        tsv=_tsv,
        split="test",
        config=part,
        tsv_file=f"{FAMILY}-{part}",
        id_key="idx",
        where=("type", part),
    )


def _files(path: str | Path, part: str) -> Path | None:
    """The file of a part in a folder; None where there is none."""
    names = (f"test_{part.lower()}.parquet", f"test_{part.lower()}.jsonl", f"{FAMILY}-{part}.tsv")
    return next((Path(path) / name for name in names if (Path(path) / name).is_file()), None)


def _is_tsv(path: Path | None) -> bool:
    return path is not None and path.suffix == ".tsv"


class Both:
    """The questions of both parts, the second after the first."""

    def __init__(self, parts: Sequence[Items], prefixes: Sequence[str]):
        self.parts, self.prefixes = parts, prefixes

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which, index = (0, index) if index < len(self.parts[0]) else (1, index - len(self.parts[0]))
        item = self.parts[which][index]
        return replace(item, id=f"{self.prefixes[which]}{item.id}")


def _hub(row: Row) -> Item:
    choices = row.options("choices")
    return Item(
        row.id,
        row.text("question"),
        row.images("image" if "image" in row.values else "filename"),
        choices=choices,
        answers=(row.letter(choices, "letter"),),
        category=row.text("task"),
        fields={"type": row.text("type"), "source": row.text("source")},
        text=row.text("prompt"),
    )


def _tsv(row: Row) -> Item:
    fields = {"type": row.text("split"), "source": row.text("source")}
    return replace(tsv_item(row), category=row.text("task"), fields=fields, text=row.text("prompt"))


def _whole(item: Item) -> str:
    return published_text(item, lambda one: f"{one.question} Select from the following choices.{bracketed(one)}")


def _variants(vlmevalkit: str, authors: str) -> dict[str, Variant]:
    """Args: the headlines of VLMEvalKit and of the authors."""
    return {
        "ours": Variant(plain_choice(), "strict_letter", numbers(authors, NUMBERS)),
        "cambrian": Variant(
            lambda item: asked(item, _whole(item) + LETTER),
            "cv_bench_cambrian",
            numbers(authors, NUMBERS),
            512,
            note="three scripts (ADE20K, COCO, Omni3D); PIVOT's reads a first character that is no letter as nothing",
        ),
        "lmms-eval": Variant(
            lambda item: asked(item, f"{respond_with(item)}\n{_whole(item)}"),
            "cv_bench_lmms_eval",
            numbers("accuracy", NUMBERS),
            1024,
            LMMS_EVAL_STOP,
        ),
        "vlmevalkit": Variant(
            lambda item: asked(item, _whole(item)),
            "vlmevalkit_option",
            numbers(vlmevalkit, NUMBERS),
            VLMEVALKIT_TOKENS,
            note="no judge: what the rules leave open is wrong",
        ),
    }


BENCHMARKS = {
    "cv-bench": Benchmark(read, _variants("parts_mean", "parts_mean"), "letter", "letter", questions=2638),
    "cv-bench-2d": Benchmark(read_part("2D"), _variants("2D", "2D"), "letter", "letter"),
    "cv-bench-3d": Benchmark(read_part("3D"), _variants("3D", "3D"), "letter", "letter"),
}
