"""What is used of the package ``pycocoevalcap``: its modules, and its two Java programs."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

import numpy as np

from pivot_jax.errors import UserError

Captions = dict[int, list[str]]  # captions of each image
METEOR_SUMS = 23  # lengths [2], function words [2], matches [4 stages, 4], chunks, matched words [2]
_CHUNKS, _MATCHED = 20, slice(21, 23)
_BARS = "|||"  # between the captions that METEOR's program reads


def package(module: str) -> Any:
    """A module of the package. Raises UserError where the package is missing."""
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise UserError(
            f"captions: their metrics need the package pycocoevalcap ({error}); pip install 'pivot-jax[captions]'"
        ) from None


def has_java() -> bool:
    """Whether the package's Java programs can be started."""
    return shutil.which("java") is not None


def tokenized(golds: Captions, answers: Captions) -> tuple[Captions, Captions]:
    """Penn Treebank tokens in lower case and without punctuation, with a blank between them.

    Raises:
      UserError: the program failed.
    """
    both = [(kind, index) for kind, captions in (("gold", golds), ("answer", answers)) for index in captions]
    texts = {(kind, index): (golds if kind == "gold" else answers)[index] for kind, index in both}
    lines = {key: [{"caption": _line(text)} for text in own] for key, own in texts.items()}
    try:
        found = package("tokenizer.ptbtokenizer").PTBTokenizer().tokenize(lines)
    except OSError as error:  # it writes a file into its own folder, and starts Java
        raise UserError(f"captions: the tokenizer of pycocoevalcap failed ({error})") from None
    # It is a program of lines, and the package does not look at how it ended.
    if {key: len(own) for key, own in found.items()} != {key: len(own) for key, own in lines.items()}:
        raise UserError("captions: the tokenizer of pycocoevalcap failed; its message is above (try `java -version`)")
    return {index: found["gold", index] for index in golds}, {index: found["answer", index] for index in answers}


def _line(text: str) -> str:
    """One line of valid UTF-8: an answer may hold line separators, and halves of surrogate pairs."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def meteor_sums(golds: Captions, answers: Captions) -> np.ndarray:
    """What METEOR 1.5 adds up over captions, of each one against its best reference: float64 [n, 23].

    Raises:
      UserError: the program failed.
    """
    try:
        program = package("meteor.meteor").Meteor()
        rows = [
            program._stat(_line(answer), [_line(text).replace(_BARS, " ") for text in golds[index]])
            for index, (answer,) in answers.items()
        ]
        sums = np.array([[float(number) for number in row.split()] for row in rows]).reshape(len(rows), METEOR_SUMS)
    except (OSError, ValueError) as error:  # what is read from a program that has ended is no row of numbers
        raise UserError(
            f"captions: METEOR's Java program failed ({error}); it needs 2 GB of memory and a Java that starts"
        ) from None
    # A caption that equals its reference is one chunk, and is not counted as one.
    same = (sums[:, _MATCHED] == sums[:, :2]).all(axis=1) & (sums[:, _CHUNKS] == 1)
    sums[same, _CHUNKS] = 0
    return sums
