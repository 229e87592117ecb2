"""Tables of the evaluation scheme on what responses are like: their length, their reflection, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pivot_jax.report.content import Column, Table, Value
from pivot_jax.rl.scheme import arms as scheme
from pivot_jax.rl.scheme import reflection
from pivot_jax.rl.scheme.arms import Arm, Group, Pooled
from pivot_jax.rl.scheme.associations import association, correlation

Rows = list[tuple[str, tuple[Value, ...]]]
# The paper's names are the notes.
RATIOS = tuple(
    Column(title, "%", note=name)
    for title, name in zip(
        ("Reflect", "Reflect, of correct", "Reflect, of incorrect", "Correct, of reflecting", "Correct, of others"),
        reflection.Ratios.__annotations__,
        strict=True,
    )
)
WORDS = (
    Column("Substrings", digits=2, note="per 100 responses, as the paper counts"),
    Column("Whole words", digits=2, note="per 100 responses"),
    Column("Responses with it", digits=2, note="of 100, as a whole word, without loops"),
)
CHANGES = (
    *(Column(name, "%") for name in (*reflection.CHANGES[1:], "no answer before it")),
    Column("Position", "%", note="of the first word in the text, median"),
)
TOGETHER = (
    Column("All responses", "%", signed=True),
    Column("Same question", "%", signed=True),
    Column("Same question, equal length", "%", signed=True),
    Column("Twice the length", "%", signed=True, note="same question, equal reflection"),
    Column("Curves correlate", digits=2, note="Pearson, accuracy and reflection ratio over steps"),
    Column("Their changes correlate", digits=2, note="first differences: without the common trend"),
)
RATIOS_NOTE = (
    "As whole words and without loops, then substrings as the paper counts. 0 where there is nothing to count."
)
CHANGES_NOTE = "Of responses that reflect: the answer stated before the first reflection word, and the final one."
TOGETHER_NOTE = (
    "Accuracy of responses that reflect minus that of those that do not. Nothing here says that one causes the other. "
    "95 % intervals take the responses to one question as dependent."
)


def tables_of(arms: Sequence[Arm], group: Group, ranks: int = 0) -> list[Table]:
    """Length, reflection ratios, words, changes and associations of one split and setting, over all steps.

    Args:
      ranks: show the ratios as MAYE logs them too, as means over so many processes; 0: not.
    """
    pooled = {arm.name: scheme.pooled(arm, group) for arm in arms}
    found = [_lengths(arms[0].runs[0].unit, pooled)]
    if rows := [row for arm in arms for row in _ratios(arm, group, pooled[arm.name], ranks)]:
        found.append(Table("Reflection", RATIOS, tuple(rows), RATIOS_NOTE, "Arm"))
    wanted: tuple[tuple[str, tuple[Column, ...], Callable[[str, Pooled], Rows], str], ...] = (
        ("Reflection words", WORDS, _words, ""),
        ("What reflection changes", CHANGES, _changes, CHANGES_NOTE),
    )
    for title, columns, rows_of, note in wanted:
        if rows := [row for name, own in pooled.items() for row in rows_of(name, own)]:
            found.append(Table(title, columns, tuple(rows), note, "Arm", closed=columns is WORDS))
    if rows := [row for arm in arms for row in _together(arm, group, pooled[arm.name])]:
        found.append(Table("Reflection and correct answers", TOGETHER, tuple(rows), TOGETHER_NOTE, "Arm"))
    return found


def _lengths(unit: str, pooled: Mapping[str, Pooled]) -> Table:
    columns = (
        *(Column(name, digits=0) for name in ("Mean", "Median", "90 %", "Correct", "Incorrect")),
        Column("Truncated", "%", note="a dash: the log does not say"),
        Column("Loops", "%", note="more than half of the 4-grams are repetitions; their reflection words do not count"),
    )
    rows: Rows = []
    for name, own in pooled.items():
        known = own.truncated[np.isfinite(own.truncated)]
        parts = (own.length[own.correct], own.length[~own.correct])
        values: tuple[Value, ...] = (
            float(own.length.mean()),
            *map(float, np.quantile(own.length, (0.5, 0.9))),
            *(float(part.mean()) if len(part) else None for part in parts),
            float(known.mean()) if len(known) else None,
            float(own.loops.mean()),
        )
        rows.append((name, values))
    note = "Over all steps." + (" The log has no numbers of tokens." if unit == "words" else "")
    return Table(f"Response length in {unit}", columns, tuple(rows), note, "Arm")


def _ratios(arm: Arm, group: Group, own: Pooled, ranks: int) -> Rows:
    paper = np.asarray(own.substrings.any(axis=1))
    if not paper.any():
        return []
    shown = {
        arm.name: reflection.ratios(own.reflects, own.correct),
        f"{arm.name}, substrings": reflection.ratios(paper, own.correct),
    }
    if ranks:
        shown[f"{arm.name}, substrings, mean over {ranks} ranks"] = scheme.ratios_over_ranks(arm, group, ranks)
    return [(title, tuple(vars(found).values())) for title, found in shown.items()]


def _words(name: str, own: Pooled) -> Rows:
    inside = (own.whole > 0) & ~own.loops[:, None]
    counts = zip(*(100 * one.mean(axis=0) for one in (own.substrings, own.whole, inside)), strict=True)
    rows = zip(reflection.WORDS, counts, strict=True)
    return [(f"{name}: {word}", tuple(map(float, found))) for word, found in rows if found[0]]


def _changes(name: str, own: Pooled) -> Rows:
    reflecting = own.change[own.reflects]
    if not len(reflecting):
        return []
    shares = [float(np.mean(reflecting == at)) for at in range(len(reflection.CHANGES))]
    return [(name, (*shares[1:], shares[0], float(np.nanmedian(own.position[own.reflects]))))]


def _together(arm: Arm, group: Group, own: Pooled) -> Rows:
    found = association(own.reflects, own.correct, own.length, own.question)
    if found is None:
        return []
    curve = correlation(*(scheme.curves(arm, group, metric).values for metric in ("accuracy", "reflection_ratio")))
    numbers = (float(one) if np.isfinite(one) else None for one in (curve.levels, curve.differences))
    return [(arm.name, (found.raw, found.within, found.controlled, found.per_doubling, *numbers))]
