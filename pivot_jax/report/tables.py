"""Tables of every study: scores per arm, differences between arms, trained parameters, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pivot_jax.eval.statistics import Interval
from pivot_jax.report import format as text
from pivot_jax.report.content import Column, Table, Value


def scores(
    title: str,
    results: Mapping[str, Mapping[str, Value]],
    *,
    unit: str = "%",
    digits: int = 1,
    note: str = "",
    row_title: str = "Encoder",
) -> Table:
    """One row per arm, one column per metric in order of first appearance. A missing value is a dash."""
    metrics = list(dict.fromkeys(metric for row in results.values() for metric in row))
    columns = tuple(Column(metric, unit, digits) for metric in metrics)
    rows = tuple((arm, tuple(row.get(metric) for metric in metrics)) for arm, row in results.items())
    return Table(title, columns, rows, note or _interval_note(results), row_title)


def differences(
    title: str,
    results: Mapping[str, Mapping[str, Interval]],
    *,
    p_values: Mapping[str, Mapping[str, float]] | None = None,
    unit: str = "%",
    digits: int = 1,
    note: str = "",
) -> Table:
    """One row per comparison ("DPO − SFT"), one column per metric, and adjusted p-values if there are any."""
    metrics = list(dict.fromkeys(metric for row in results.values() for metric in row))
    columns, rows = [], []
    for metric in metrics:
        columns.append(Column(metric, unit, digits, signed=True))
        if p_values is not None:
            columns.append(Column("p", note=f"{metric}: adjusted for several comparisons (Holm)"))
    for name, row in results.items():
        values: list[Value] = []
        for metric in metrics:
            values.append(row.get(metric))
            if p_values is not None:
                p = p_values.get(name, {}).get(metric)
                values.append(None if p is None else text.p_value(p))
        rows.append((name, tuple(values)))
    marked = f"{_interval_note(results)} ▲ ▼: the interval excludes zero."
    return Table(title, tuple(columns), tuple(rows), note or marked, "Comparison")


@dataclass(frozen=True)
class Trained:
    """One group of parameters in one stage."""

    stage: str
    part: str  # "vision", "projector", ...
    parameters: int
    learning_rate: float | None  # peak; None is frozen


def trained_parameters(title: str, groups: Sequence[Trained], note: str = "") -> Table:
    """Size and peak learning rate of each part in each stage: one row per stage, one column per part."""
    stages = list(dict.fromkeys(group.stage for group in groups))
    parts = list(dict.fromkeys(group.part for group in groups))
    columns = (*(Column(part) for part in parts), Column("Trained"), Column("Frozen"))
    rows = []
    for stage in stages:
        mine = [group for group in groups if group.stage == stage]
        by_part = {part: [group for group in mine if group.part == part] for part in parts}
        cells: list[Value] = [_rates(by_part[part]) for part in parts]
        trained = sum(group.parameters for group in mine if group.learning_rate is not None)
        frozen = sum(group.parameters for group in mine if group.learning_rate is None)
        rows.append((stage, (*cells, text.si(trained), text.si(frozen) if frozen else "0")))
    return Table(title, columns, tuple(rows), note, "Stage")


def _rates(groups: Sequence[Trained]) -> str | None:
    if not groups:
        return None
    shown = []
    for group in groups:
        rate = "frozen" if group.learning_rate is None else f"{group.learning_rate:.3g}".replace("e-0", "e-")
        shown.append(f"{text.si(group.parameters)} · {rate}")
    return "; ".join(dict.fromkeys(shown))


@dataclass(frozen=True)
class Cost:
    """The cost of one stage, summed over seeds and arms."""

    stage: str
    runs: int
    steps: int
    seconds: float
    flops: float
    samples: int = 0


def costs(title: str, stages: Sequence[Cost], note: str = "") -> Table:
    """Time and floating-point operations per stage, with their sum as the last row."""
    columns = (
        Column("Runs"),
        Column("Steps", note="optimizer steps of all runs"),
        Column("Samples"),
        Column("Time"),
        Column("FLOPs", note="computed from the model's shapes"),
        Column("FLOP/s"),
    )
    rows = [(stage.stage, _cost_cells(stage)) for stage in stages]
    if len(stages) > 1:
        whole = Cost(
            "Total",
            sum(stage.runs for stage in stages),
            sum(stage.steps for stage in stages),
            sum(stage.seconds for stage in stages),
            sum(stage.flops for stage in stages),
            sum(stage.samples for stage in stages),
        )
        rows.append((whole.stage, _cost_cells(whole)))
    return Table(title, columns, tuple(rows), note, "Stage", total=len(stages) > 1)


def _cost_cells(stage: Cost) -> tuple[Value, ...]:
    speed = text.si(stage.flops / stage.seconds) if stage.seconds and stage.flops else None
    flops = text.si(stage.flops) if stage.flops else None
    return (stage.runs, stage.steps, stage.samples or None, text.duration(stage.seconds), flops, speed)


def plain(table: Table) -> str:
    """The table as aligned text for a terminal."""
    header = [table.row_title, *(heading(column) for column in table.columns)]
    body = [[name, *(_joined(value, column) for value, column in zip(values, table.columns, strict=True))]
            for name, values in table.rows]  # fmt: skip
    widths = [max(len(row[index]) for row in [header, *body]) for index in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width)
                  for index, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in [header, *body]
    ]  # fmt: skip
    return "\n".join([table.title, lines[0], "-" * sum(widths, 2 * (len(widths) - 1)), *lines[1:]])


def heading(column: Column) -> str:
    """A column's title with its unit."""
    unit = text.shown_unit(column.unit, column.signed)
    return f"{column.title} ({unit})" if unit else column.title


def _joined(value: Value, column: Column) -> str:
    main, below = text.cell(value, unit=column.unit, digits=column.digits, signed=column.signed)
    return f"{main} {below}".strip()


def _interval_note(results: Mapping[str, Mapping[str, Value]]) -> str:
    found = next((v for row in results.values() for v in row.values() if isinstance(v, Interval)), None)
    return f"In brackets: {100 * found.level:.0f} % intervals." if found is not None else ""
