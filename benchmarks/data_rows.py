"""Rows for the benchmarks of data at size: LLaVA conversations whose texts are drawn from real ones, in two formats.

Half are captions (LLaVA-Pretrain), half questions with options and a hint (ScienceQA) whose answer is the hint of
another question; each answer has its number. The images are those of the data, so many rows share one.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHUNK = 10_000  # rows that are written at a time
SHARD = 100_000  # rows of a file of ArrayRecord


class Row(NamedTuple):
    """``conversations``: JSON text."""

    id: str
    image: str
    conversations: str

    @property
    def line(self) -> str:
        return f'{{"id": "{self.id}", "image": {json.dumps(self.image)}, "conversations": {self.conversations}}}\n'


def rows(data: Path, count: int) -> Iterator[Row]:
    """``count`` rows of LLaVA's format, the same ones each time."""
    captions = [
        (f"llava_pretrain_mini/{row['image']}", *(json.dumps(turn["value"]) for turn in row["conversations"]))
        for row in json.loads((data / "llava_pretrain_mini" / "data.json").read_text())
    ]
    questions = []
    for line in (data / "scienceqa_test_img" / "data.jsonl").read_text().splitlines():
        row = json.loads(line)
        options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCDEFGH", row["choices"], strict=False))
        asked = f"<image>\n{row['hint']}\n{row['question']}{options}"
        told = row["hint"] or row["question"]
        questions.append((f"scienceqa_test_img/{row['image']}", json.dumps(asked), json.dumps(told)))
    rng = random.Random(0)
    for number in range(count):
        if number % 2:
            image, asked, told = rng.choice(captions)
        else:
            (image, asked, _), (_, _, told) = rng.choice(questions), rng.choice(questions)
        answer = f'{told[:-1]} ({number})"'
        turns = f'[{{"from": "human", "value": {asked}}}, {{"from": "gpt", "value": {answer}}}]'
        yield Row(str(number), image, turns)


def write_jsonl(path: Path, found: Iterator[Row]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        while chunk := list(itertools.islice(found, CHUNK)):
            file.write("".join(row.line for row in chunk))


def write_array_record(folder: Path, found: Iterator[Row]) -> None:
    """A prepared TFDS data set of one split, ``train``."""
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True)
    text = tfds.features.Text
    features = tfds.features.FeaturesDict({name: text() for name in Row._fields})
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="conversations", version="1.0.0", data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=SHARD, file_format="array_record")
    writer.initialize_splits(["train"])
    while chunk := list(itertools.islice(found, CHUNK)):
        writer.add_examples({"train": [row._asdict() for row in chunk]})
    writer.close_all()


FORMATS = {"JSONL": (".jsonl", write_jsonl), "ArrayRecord": ("", write_array_record)}


def prepared(data: Path, folder: Path, count: int, name: str) -> Path:
    """``count`` rows in ``folder`` in a format of :data:`FORMATS`, made unless they are there."""
    suffix, write = FORMATS[name]
    path = folder / f"{count}{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{count}.partial{suffix}"
        write(partial, rows(data, count))
        partial.rename(path)
    return path
