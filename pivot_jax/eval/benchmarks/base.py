"""The type of a benchmark: how its published files become questions, and how each toolkit asks and scores them.

A family's file holds everything about its benchmarks. Rows are read once into :class:`Item`, which no toolkit has
worded yet; a :class:`Variant` is one toolkit's prompt, limits, scorer and aggregate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.config import paths
from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.rows import Rows, open_rows, row_id_of
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks.toolkits import DEFAULT, TOOLKITS
from pivot_jax.eval.scoring.aggregate import MEAN, Aggregate

LISTS = ("images", "choices", "options")  # fields of a question that hold several values
LISTED = 6  # names of a wrong folder's content in a message


@dataclass(frozen=True)
class Item:
    """A question as it was published, before a toolkit words it.

    Attributes:
      question: its text; ``<image>`` where an image goes, if the publisher says so.
      images: file paths, encoded bytes, or uint8 arrays [height, width, 3].
      choices: texts of the options in letter order.
      answers: accepted answers; one letter where there are choices.
      unit: questions that count together, or share an image, have the same.
      fields: what else some toolkit's prompt, scorer or aggregate reads; JSON values.
      context: turns before the question.
      text: the question with its options in one text, where it is published so; prompts only.
    """

    id: str
    question: str
    images: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    hint: str = ""
    category: str = ""
    unit: Any = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    context: tuple[Message, ...] = ()
    text: str = ""

    def example(self, prompt: str) -> Example:
        """The question with these words as a user turn, to be answered."""
        extra: dict[str, Any] = {
            "answer": self.answers[0] if len(self.answers) == 1 else list(self.answers),
            "choices": list(self.choices),
            "category": self.category,
        }
        extra |= {"unit": self.unit} if self.unit is not None else {}
        extra |= {"fields": dict(self.fields)} if self.fields else {}
        return Example(self.id, (*self.context, Message("user", prompt)), self.images, extra=extra)


class Items(Protocol):
    """Questions by index, read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


class Converted:
    """Rows of a file, each made an item when it is read."""

    def __init__(self, rows: Rows, convert: Callable[[dict[str, Any], str], Item], id_key: str = "id"):
        self.rows, self.convert, self.id_key = rows, convert, id_key

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        return self.convert(row, row_id_of(row, self.rows, index, self.id_key))


@dataclass(frozen=True)
class Variant:
    """How one toolkit asks and scores a benchmark.

    Attributes:
      prompt: the text that is asked; ``<image>`` where each image goes.
      scorer: name of a scorer of ``scoring.table.SCORERS``.
      stop: an answer ends before any of these strings.
      temperature, top_p: at which its task samples; temperature None: it leaves that to the model, or answers greedily.
      first_image: a question is asked about the first of its images alone.
      shown: the question with the images that are shown, in the order of their marks in the prompt; None: as published.
      note: where this differs from the toolkit, and why (such as rules in place of a judge).
    """

    prompt: Callable[[Item], str]
    scorer: str
    aggregate: Aggregate = MEAN
    max_new_tokens: int = 16
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float = 1.0
    note: str = ""
    first_image: bool = False
    shown: Callable[[Item], Item] | None = None

    def example(self, item: Item) -> Example:
        """The question in the toolkit's words."""
        shown = self.shown(item) if self.shown else item
        shown = replace(shown, images=shown.images[:1]) if self.first_image else shown
        return shown.example(self.prompt(shown))


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
      read: questions from the path of its files.
      variants: toolkit → how it asks and scores; "ours" is always there.
      answer_format: requested format of an answer (see ``parse.format_compliance``).
      option_form: "letter" | "text": form in which options are ranked by likelihood; "": there are no options.
      questions: how many it has, where every publication of it has the same; 0: not known.
      by_column: ``read`` also takes ``category`` and ``unit``, names of columns.
    """

    read: Callable[..., Items]
    variants: Mapping[str, Variant]
    answer_format: str
    option_form: str = ""
    questions: int = 0
    by_column: bool = False

    def items(self, path: str | Path, category: str = "", unit: str = "") -> Items:
        """Questions from the path of its files; ``category`` and ``unit`` by column, where it leaves that open.

        Raises:
          UserError: as :meth:`check_columns`, or as ``read``.
        """
        self.check_columns(category, unit)
        return self.read(path, category=category, unit=unit) if category or unit else self.read(path)

    def check_columns(self, category: str, unit: str) -> None:
        """Raises UserError where a column is named, and the benchmark has categories and units of its own."""
        if (category or unit) and not self.by_column:
            option = "--category" if category else "--unit"
            raise UserError(f"{option}: only for your own questions (--benchmark qa); this benchmark has its own")

    def variant(self, toolkit: str = DEFAULT, *, prompt: str = "", scorer: str = "", aggregate: str = "") -> Variant:
        """A toolkit's way, with parts of it replaced.

        Args:
          prompt, aggregate: a toolkit whose prompt (with its images and limits) or aggregate is taken instead.
          scorer: name of another scorer.

        Raises:
          UserError: a toolkit that is unknown, or that does not have this benchmark.
        """
        found = self._of(toolkit)
        if prompt:
            other = self._of(prompt)
            asking = ("prompt", "max_new_tokens", "stop", "temperature", "top_p", "first_image", "shown")
            found = replace(found, **{name: getattr(other, name) for name in asking})
        if aggregate:
            found = replace(found, aggregate=self._of(aggregate).aggregate)
        return replace(found, scorer=scorer) if scorer else found

    def _of(self, toolkit: str) -> Variant:
        if toolkit not in self.variants:
            kind = "does not have this benchmark" if toolkit in TOOLKITS else "is unknown"
            raise UserError(f"toolkit '{toolkit}' {kind}; here it is one of {', '.join(self.variants)}")
        return self.variants[toolkit]


class Worded:
    """The questions of a benchmark as examples, in the words of a toolkit; read when they are asked for."""

    def __init__(self, items: Items, variant: Variant):
        self.items, self.variant = items, variant

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        return self.variant.example(self.items[index])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


def existing_folder(path: str | Path, family: str) -> Path:
    """Raises UserError where ``path`` is not a folder; names the nearest one."""
    folder = Path(path)
    if not folder.is_dir():
        near = paths.nearest(folder)
        raise UserError(f"{family}: no folder at '{folder}'{near or '; name the one with its questions'}")
    return folder


def question_file(path: str | Path, family: str, name: str = "data.jsonl") -> Path:
    """The file of questions: ``path`` itself, or the file ``name`` in it.

    Raises:
      UserError: there is none; the message lists the content of the folder, or names the nearest file.
    """
    path = Path(path)
    file = path / name if path.is_dir() else path
    if file.is_file():
        return file
    fix = "name the file of questions, or its folder"
    if path.is_dir():
        raise UserError(f"{family}: {path} holds no {name}{contents(path)}; {fix}")
    raise UserError(f"{family}: {path} does not exist{paths.nearest(path, files=True) or f'; {fix}'}")


def question_rows(file: Path, family: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a file, each of which has the fields; all but :data:`LISTS` are texts or numbers.

    Raises:
      UserError: a row without one of the fields, or with a list or object in it (the message names row and field); or
        as :func:`check_first`.
    """
    source, rows = open_rows(file), []
    check_first(source, file, family, ", ".join(fields))
    for index in range(len(source)):
        row = source[index]
        if missing := [name for name in fields if row.get(name) in (None, "", [])]:
            row_id = row_id_of(row, source, index)
            raise UserError(f"{family}: {file}, row '{row_id}': no '{missing[0]}'; a question has {', '.join(fields)}")
        if wrong := [name for name in fields if name not in LISTS and isinstance(row[name], (list, dict))]:
            row_id, kind = row_id_of(row, source, index), type(row[wrong[0]]).__name__
            raise UserError(f"{family}: {file}, row '{row_id}': '{wrong[0]}' is a {kind}; write a text or a number")
        rows.append(row)
    return rows


def check_first(rows: Any, file: str | Path, family: str, fields: str = "") -> None:
    """Raises UserError where the first row is not a question: then the path names the wrong file."""
    if not len(rows):
        raise UserError(f"{family}: {file} is empty")
    try:
        rows[0]
    except RowError as error:
        reason = error.reason.partition("; ")[0]  # the fix after it is for a single bad row
        needs = f"; a question has {fields}" if fields else "; name the file that has them"
        raise UserError(f"{family}: {file} is not a file of its questions ({reason}){needs}") from None


def contents(folder: Path) -> str:
    """`` (it holds: a, b, …)``, for a message about a wrong folder."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = ", …" if len(names) > LISTED else ""
    return f" (it holds: {', '.join(names[:LISTED]) or 'nothing'}{more})"
