"""The report of the evaluation scheme: accuracy, response length and reflection of arms of online RL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pivot_jax.data.processing.images import load
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.report import content, plots, reflections, tables
from pivot_jax.report import format as text
from pivot_jax.report.content import Block, Column, Fact, Figure, Prompt, Report, Section, Table, Value
from pivot_jax.rl.completions import THUMBNAIL
from pivot_jax.rl.scheme import arms as scheme
from pivot_jax.rl.scheme import reflection
from pivot_jax.rl.scheme.arms import Arm, Estimate, Group, Summary
from pivot_jax.rl.scheme.logs import Response as Logged
from pivot_jax.words import counted

EXAMPLES, LONGEST = 6, 2000  # responses of a kind that are shown, characters of one
FEW = 200  # questions, below which one of them is a large share of a point
VALIDATION = ("val", "valid", "validation", "dev")
SCOPE = (
    "Whether reflection makes an answer right: responses differ in more than their reflection words.",
    "Anything about another judge of the answers than the one named below.",
)
OVER_STEPS = (
    Column("First step", "%", note="the model before training only where that is step 0"),
    Column("Last step", "%"),
    Column("Mean over steps", "%"),
    Column("At the step that is best on validation", "%"),
    Column("Max over steps", "%", note="of each run, chosen on the questions that are reported, so it is too high"),
    Column("Steps", digits=0),
)
SIZES = (
    Column("Questions", digits=0, note="a dash: other questions at every step, so only the runs are taken as random"),
    Column("Runs", digits=0),
)


def build(arms: Sequence[Arm], provenance: Mapping[str, str] | None = None, ranks: int = 0) -> Report:
    """The report of some arms.

    Args:
      provenance: what the numbers come from, by name, for the end of the page.
      ranks: show the reflection ratios as MAYE logs them too, as means over so many processes; 0: not.

    Raises:
      UserError: runs of an arm that have no split, setting or step in common.
    """
    groups = list(dict.fromkeys(group for arm in arms for group in arm.groups()))
    if empty := [arm.name for arm in arms if not arm.groups()]:
        raise UserError(f"{empty[0]}: its runs have no split and setting in common; give them other names")
    total = sum(len(run) for arm in arms for run in arm.runs)
    runs = sum(len(arm.runs) for arm in arms)
    facts = (Fact("responses", total, digits=0), Fact("runs", runs, digits=0), Fact("arms", len(arms), digits=0))
    summaries = {(arm.name, group): _summary(arm, group) for arm in arms for group in arm.groups()}
    sections = [Section("Read this first", "", tuple(_flags(arms, summaries)))]
    for group in groups:
        having = [arm for arm in arms if group in arm.groups()]
        own = {arm.name: summaries[arm.name, group] for arm in having}
        blocks = [*_accuracy(having, group, own), *reflections.tables_of(having, group, ranks)]
        sections.append(Section(title(group), "", tuple(blocks)))
    sections.append(_examples(arms))
    names = ", ".join(arm.name for arm in arms)
    return Report(
        "Responses of online RL",
        names,
        facts,
        _answer(arms, groups, summaries),
        tuple(sections),
        SCOPE,
        provenance or {},
    )


def _answer(arms: Sequence[Arm], groups: Sequence[Group], summaries: dict[tuple[str, Group], Summary]) -> str:
    """One sentence per arm on the test split, or on the first where there is none."""
    group = next((one for one in groups if one[0] == "test"), groups[0])
    gaps = scheme.differences([arm for arm in arms if group in arm.groups()], group)
    said = []
    for arm in arms:
        one = summaries.get((arm.name, group))
        if one is None:
            continue
        over = " (mean over steps)" if one.steps > 1 else ""
        line = f"{arm.name}: {_percent(one.mean)} of the answers are right{over}"
        gap = gaps.get(arm.name)
        said.append(line + (f", {_percent(gap, signed=True)} against {arms[0].name}." if gap else "."))
    return "\n\n".join((f"On {title(group)}:", *said))


def _percent(value: Estimate, signed: bool = False) -> str:
    shown, interval = text.cell(value, unit="%", signed=signed)
    return f"{shown}{' points' if signed else ' %'} {interval}".strip()


def title(group: Group) -> str:
    """ "test, T=1", or "all responses" where the log says neither split nor setting."""
    return ", ".join(filter(None, group)) or "all responses"


def _summary(arm: Arm, group: Group) -> Summary:
    same = [one for one in arm.groups() if one[0] in VALIDATION]
    validation = next((one for one in same if one[1] == group[1]), same[0] if same else None)
    return scheme.summary(arm, group, None if group[0] in VALIDATION else validation)


def _flags(arms: Sequence[Arm], summaries: dict[tuple[str, Group], Summary]) -> list[str]:
    """What a reader has to know before any number."""
    said = []
    several = any(one.steps > 1 for one in summaries.values())
    if single := [arm.name for arm in arms if len(arm.runs) == 1]:
        said.append(f"Single run: {', '.join(single)}. How much another seed would change is not known.")
    for group, count in dict.fromkeys((group, one.questions) for (_, group), one in summaries.items()):
        if 0 < count < FEW:
            said.append(f"{title(group)}: {count} questions, so one question is {100 / count:.1f} points.")
    if any(one.steps > 1 for one in summaries.values()):
        said.append(
            "“Max over steps” chooses the step on the questions that it reports. It is shown because papers do."
        )
    if several and not any(group[0] in VALIDATION for arm in arms for group in arm.groups()):
        said.append("There is no validation split, so no step could be chosen on other questions than those reported.")
    for arm in arms:
        own = [one for (name, _), one in summaries.items() if name == arm.name and one.steps > 1]
        if first := [one.steps_from for one in own if one.steps_from > 0]:
            said.append(f"{arm.name}: nothing before step {min(first):g}, so the model before training is not in it.")
    return said


def _accuracy(arms: Sequence[Arm], group: Group, found: dict[str, Summary]) -> list[Block]:
    several_steps = any(one.steps > 1 for one in found.values())
    columns = (*(OVER_STEPS if several_steps else (Column("Accuracy", "%"),)), *SIZES)
    rows = tuple((name, _line(one, several_steps)) for name, one in found.items())
    note = "95 % intervals, with runs and questions as random."
    blocks: list[Block] = [Table(f"Accuracy: {title(group)}", columns, rows, note, "Arm")]
    if several := {arm.name: k for arm in arms if (k := scheme.samples(arm, group)) > 1}:
        columns = tuple(Column(name, "%") for name in ("avg@k", "pass@k, unbiased", "Majority vote"))
        votes = []
        for arm in arms:
            if arm.name in several:
                k = several[arm.name]
                last = (scheme.curves(arm, group, "accuracy"), scheme.pass_curves(arm, group, k))
                values = (*last, scheme.curves(arm, group, "majority vote"))
                votes.append((f"{arm.name}, k = {k}", tuple(float(one.values[:, -1].mean()) for one in values)))
        blocks.append(Table("Several responses to a question, at the last step", columns, tuple(votes), "", "Arm"))
    if gaps := scheme.differences(arms, group):
        name = arms[0].name
        adjusted = statistics.holm({one: gap.p for one, gap in gaps.items()})
        blocks.append(
            tables.differences(
                f"Differences: {title(group)}",
                {f"{one} − {name}": {"accuracy": gap} for one, gap in gaps.items()},
                p_values={f"{one} − {name}": {"accuracy": adjusted[one]} for one in gaps},
            )
        )
    blocks += _charts("Over steps", arms, group, ("accuracy", "reflection_ratio"))
    kinds = ("length", "length, correct", "length, incorrect", "truncated", "repetition loops")
    blocks += _charts("Responses over steps", arms, group, kinds)
    return blocks


def _line(one: Summary, several_steps: bool) -> tuple[Value, ...]:
    sizes: tuple[Value, ...] = (one.questions or None, one.runs)
    if not several_steps:
        return (one.mean, *sizes)
    return (one.first, one.last, one.mean, one.chosen, one.maximum, one.steps, *sizes)


def _charts(heading: str, arms: Sequence[Arm], group: Group, metrics: Sequence[str]) -> list[Block]:
    """Curves of the metrics over steps, where there are several steps."""
    runs: dict[str, list[list[dict[str, float]]]] = {}
    for arm in arms:
        found = {metric: scheme.curves(arm, group, metric) for metric in metrics}
        steps = found[metrics[0]].steps
        if len(steps) > 1:
            runs[arm.name] = [
                [
                    {"step": float(step)}
                    | {name: float(one.values[run, at]) for name, one in found.items() if np.isfinite(one.values).any()}
                    for at, step in enumerate(steps)
                ]
                for run in range(len(arm.runs))
            ]
    if not runs:
        return []
    drawn = plots.training_curves(runs, metrics, order=[arm.name for arm in arms], smooth=0.0)
    note = "Thin lines are runs, the thick one is their mean." if any(len(arm.runs) > 1 for arm in arms) else ""
    return [Figure(f"{heading}: {title(group)}", drawn, note)]


def _examples(arms: Sequence[Arm]) -> Section:
    """The last responses of each arm: right and wrong ones that reflect first, then others."""
    blocks: list[Block] = []
    columns = (Column("correct"), Column("step", digits=0), Column("right answer"))
    for arm in arms:
        kept = [one for run in arm.runs for one in reversed(run.examples)]
        reflecting = [one for one in kept if any(reflection.words(one[0].text).whole)]
        others = [one for one in kept if one not in reflecting]
        shown = [one for right in (True, False) for one in reflecting if one[1] == right][:EXAMPLES]
        shown += [one for right in (True, False) for one in [o for o in others if o[1] == right][:2]]
        prompts = tuple(_prompt(one, right) for one, right in shown)
        blocks.append(content.Responses(arm.name, columns, prompts, counted(len(prompts), "response")))
    return Section("Examples", "Of the last steps: responses that reflect first, then others.", tuple(blocks))


def _prompt(one: Logged, right: bool) -> Prompt:
    half = LONGEST // 2
    said = one.text if len(one.text) <= LONGEST else f"{one.text[:half]}\n[…]\n{one.text[-half:]}"
    values: tuple[Value, ...] = ("yes" if right else "no", float(one.step), "" if one.gold is None else str(one.gold))
    return Prompt(one.prompt or one.question, tuple(map(_image, one.images)), (content.Response(said, values),))


def _image(path: str) -> np.ndarray | str:
    try:
        image = load(path)
    except UserError:
        return f"image {Path(path).name} is not on this machine"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)
