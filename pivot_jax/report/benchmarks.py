"""The report of benchmark answers: scores with intervals, controls, other toolkits' rules, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pivot_jax.data.processing.images import load
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval import averages, comparison
from pivot_jax.eval.benchmarks import controls, suite
from pivot_jax.eval.benchmarks.toolkits import TOOLKITS
from pivot_jax.eval.comparison import Paired
from pivot_jax.eval.folders import BLANK, Answered
from pivot_jax.report import content
from pivot_jax.report.content import Column, Fact, Prompt, Report, Response, Responses, Section, Table, Value
from pivot_jax.words import counted

EXAMPLES, LONGEST = 3, 2000  # questions of a kind that are shown, characters of a text
LISTED = 6  # benchmarks in the summary; of more, only those with a control
THUMBNAIL = 256  # pixels of the longer side
PLACE = {BLANK: "Blank images", "shuffled-images": "Shuffled images", "rotated-options": "Every order of options"}
SCORES = (
    Column("Score", note="percent, or points where the benchmark counts points"),
    *(Column(title, note="the same questions under this control") for title in PLACE.values()),
    Column("Most likely option", note="the option with the highest likelihood, whatever the model wrote"),
    Column("Questions", digits=0),
)
ANSWERS = (
    Column("Requested format", "%", note="right or wrong"),
    Column("Nothing read", "%", note="answers in which the scorer found nothing"),
    Column("Guessed", "%", note="answers for which the scorer's rule drew an option"),
    Column("Truncated", "%", note="answers that end at the token limit"),
)
SCOPE = (
    "Whether the model saw the benchmark's questions in training.",
    "How other prompts would be answered: another toolkit's own number needs its prompt, too.",
)


def build(answered: Sequence[Answered], compared: Sequence[Paired] = ()) -> Report:
    """The report of some predictions files.

    Args:
      compared: differences to another model's answers.
    """
    plain = [one for one in answered if not one.control] or list(answered)
    blocks: list[content.Block] = [_scores(plain, answered), _formats(plain)]
    blocks += [_averages(plain)]
    sections = [Section("Scores", "Intervals are 95 % over the benchmark's independent units.", tuple(blocks))]
    if compared:
        sections.append(Section("Compared with the other model", "", (_compared(compared),)))
    sections += [_benchmark(one) for one in plain]
    names = ", ".join(dict.fromkeys(str(one.rows[0].get("model_id", "")) for one in plain))
    total = sum(len(one.rows) for one in plain)
    facts = (Fact("benchmarks", len(plain), digits=0), Fact("questions", total, digits=0))
    return Report("Benchmark answers", names, facts, _summary(plain, answered), tuple(sections), SCOPE, _made_by(plain))


def _summary(plain: Sequence[Answered], answered: Sequence[Answered]) -> str:
    """A line per benchmark; of many benchmarks, only those that were also asked with blank images."""
    blank = {one.key: one for one in answered if one.control == BLANK}
    lines = [f"{counted(len(plain), 'benchmark')}; the table below has their scores."] if len(plain) > LISTED else []
    for one in plain:
        value, control = _shown(one), blank.get(one.key)
        line = f"{one.label}: {value.value:.1f} [{value.low:.1f}, {value.high:.1f}]"
        if control is not None:
            lines.append(f"{line}, {_shown(control).value:.1f} with blank images.")
        elif len(plain) <= LISTED:
            lines.append(f"{line}.")
    return "\n\n".join(lines)


def _shown(one: Answered) -> Any:
    """The headline in percent or points."""
    return one.score.value.scaled(100 if one.score.percent else 1)


def _scores(plain: Sequence[Answered], answered: Sequence[Answered]) -> Table:
    rows = []
    for one in plain:
        under = {other.control: _shown(other) for other in answered if other.control and other.key == one.key}
        ranked = one.score.secondary.get("ranked")
        values: tuple[Value, ...] = (
            _shown(one),
            *(under.get(control) for control in PLACE),
            ranked.scaled(100) if ranked else None,
            len(one.rows),
        )
        rows.append((one.label, values))
    return Table("Scores", SCORES, tuple(rows), row_title="Benchmark")


def _formats(plain: Sequence[Answered]) -> Table:
    rows = tuple(
        (one.label, (one.score.compliance, one.score.unread, one.score.guessed, one.score.truncated)) for one in plain
    )
    return Table("How the answers could be read", ANSWERS, rows, row_title="Benchmark")


def _averages(plain: Sequence[Answered]) -> content.Block:
    values = {one.score.benchmark: _shown(one).value for one in plain}
    if absent := averages.missing(values):
        return f"No averages: they are over the paper's sixteen benchmarks, and these are missing: {', '.join(absent)}."
    rows = tuple((name, (value,)) for name, value in averages.averages(values).items())
    return Table("Averages as the paper computes them", (Column("Mean"),), rows, row_title="Group")


def _compared(compared: Sequence[Paired]) -> Table:
    columns = (
        Column("This model", "%"),
        Column("The other", "%"),
        Column("Difference", "%", signed=True),
        Column("Detectable", "%", note="the smallest true difference that is found in 80 % of such comparisons"),
        Column("Only this one right", digits=0),
        Column("Only the other", digits=0),
        Column("p", digits=4),
        Column("p, Holm", digits=4, note="corrected for the number of benchmarks compared"),
    )
    rows = tuple(
        (
            one.benchmark,
            (
                float(one.first.per_unit().mean()), float(one.second.per_unit().mean()), one.difference,
                one.difference.detectable, one.only_first, one.only_second, one.p, one.adjusted,
            ),
        )
        for one in compared
    )  # fmt: skip
    note = "Over the units that both answered; p by McNemar's exact test, or sign flips where scores are not 0 or 1."
    return Table("Paired differences", columns, rows, note=note, row_title="Benchmark")


def _benchmark(one: Answered) -> Section:
    score = one.score
    said = f"Toolkit {score.toolkit}: {TOOLKITS.get(score.toolkit, 'of a benchmark file')}. Scorer {score.scorer}."
    blocks: list[content.Block] = [_numbers(one)]
    under = comparison.under_all_toolkits(one.score.benchmark, one.rows)
    if len(under) > 1:
        blocks.append(_toolkits(under))
    blocks += _examples(one)
    return Section(one.label, said, tuple(blocks))


def _numbers(one: Answered) -> Table:
    unit = "%" if one.score.percent else ""
    rows = tuple((name, (value, value.n)) for name, value in one.score.intervals().items())
    columns = (Column("Value", unit), Column("Independent units", digits=0))
    return Table(f"{one.label}: all numbers", columns, rows, row_title="")


def _toolkits(under: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, (score.scorer, score.value.scaled(100 if score.percent else 1), score.unread, score.guessed))
        for name, score in under.items()
    )
    columns = (Column("Scorer"), Column("Score"), Column("Nothing read", "%"), Column("Guessed", "%"))
    note = "The same answers under every toolkit's scorer and aggregate; its own number needs its prompt, too."
    return Table("Other toolkits' rules", columns, rows, note=note, row_title="Toolkit")


def _examples(one: Answered) -> list[content.Block]:
    """Some answers that are right and some that are wrong, spread over the file."""
    path = one.rows[0].get("data")
    if not path:
        return [f"No examples: {one.file.name} does not say where the benchmark's files are."]
    try:
        items = suite.find(one.score.benchmark).read(str(path))
        if one.control in controls.CONTROLS:
            items = controls.CONTROLS[one.control].items(items)
        images = {items[index].id: items[index].images for index in range(len(items))}
    except (UserError, RowError) as error:
        return [f"No examples: {error}"]
    right = dict(zip(one.score.ids, one.score.scores.tolist(), strict=True))
    blocks: list[content.Block] = []
    for title, wanted in (("Right", True), ("Wrong", False)):
        own = [row for row in one.rows if (right[str(row["question_id"])] >= 1) == wanted]
        chosen = own[:: max(1, len(own) // EXAMPLES)][:EXAMPLES]
        if chosen:
            prompts = tuple(_prompt(row, images.get(str(row["question_id"]), ())) for row in chosen)
            columns = (Column("Correct answer"), Column("Category"))
            blocks.append(Responses(f"{title}: {counted(len(own), 'answer')}", columns, prompts))
    return blocks


def _prompt(row: Mapping[str, Any], images: Sequence[Any]) -> Prompt:
    gold = row["gt_answer"]
    values = (", ".join(map(str, gold)) if isinstance(gold, list) else str(gold), str(row.get("category", "")))
    text = str(row.get("prompt", ""))[:LONGEST]
    return Prompt(text, tuple(map(_thumbnail, images)), (Response(str(row["answer"])[:LONGEST], values),))


def _thumbnail(image: Any) -> np.ndarray | str:
    try:
        shown = load(image)
    except (UserError, RowError, OSError, ValueError) as error:
        return str(error)
    shown.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(shown)


def _made_by(plain: Sequence[Answered]) -> dict[str, str]:
    return {f"answers to {one.label}": str(one.file) for one in plain}
