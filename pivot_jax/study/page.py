"""The demo's report: the study's findings as a ``report`` page."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pivot_jax import files
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import gradient_maps
from pivot_jax.report import format as text
from pivot_jax.report import page, plots, tables
from pivot_jax.report.content import (
    Answer,
    Card,
    Cards,
    Column,
    Fact,
    Figure,
    Grid,
    Listing,
    Panel,
    Report,
    Section,
    Table,
    Value,
)
from pivot_jax.study.collect import COMPARISONS, Results
from pivot_jax.study.maps import MAPS
from pivot_jax.study.settings import ARMS, POST_TRAINED, RUN_OF_ARM, STAGES, Study
from pivot_jax.train.metrics import read as read_metrics
from pivot_jax.words import counted

SHOWN = 8  # example questions, and gradient maps
GENERATED, RANKED = "answers (generated)", "answers (options ranked)"


def write_report(study: Study, seconds: float) -> Path:
    """Writes ``report.html`` and, for machines, ``results.json``."""
    results = Results(study)
    measured = {arm: _encoder(results, arm) for arm in ARMS}
    report = Report(
        title="Does RL make a multimodal LLM see better than SFT? The study in miniature",
        subtitle="PIVOT-JAX demo: rendered scenes, a 32-pixel encoder, stages 0 to 3",
        facts=_facts(results, seconds),
        summary=_summary(results),
        sections=(
            _learning(results),
            _stage2(results),
            _encoders(results, measured),
            _examples(results),
            _gradients(results),
            _costs(results, seconds),
        ),
        scope=(
            "The images are rendered and tiny, the models have a few hundred thousand parameters, and the decoder is "
            "not pretrained. These results say nothing about the paper's models.",
            f"Intervals take {counted(len(study.settings.seeds), 'training seed')} and the items as random: they are "
            "about the method, not about these models, and so few seeds make them wide.",
            "SFT, DPO and GRPO each use one learning rate; there was no equal search for the best one.",
            "The arms start from the same checkpoints and read the same prompts, but not for the same time: see the "
            "table of costs. SFT learns the chosen answers, DPO the pairs; GRPO samples answers and learns from "
            "whether they are right.",
        ),
        provenance=_provenance(study),
    )
    files.write_text(study.root / "results.json", json.dumps(_numbers(results, measured), indent=1, sort_keys=True))
    return page.write(report, study.root / "report.html")


def _facts(results: Results, seconds: float) -> tuple[Fact, ...]:
    gap = statistics.difference(results.answers("stage1b"), results.answers("stage1b_blank"))
    seen, unseen = (results.pairs("dpo", split)[0] for split in ("preference", "preference_test"))
    third = {
        arm: statistics.difference(results.answers(f"stage3_{arm}"), results.answers("stage3_sft"))
        for arm in ("dpo", "grpo")
    }
    return (
        Fact("Stage 1b over its zero-image control", gap, "%", "accuracy on unseen questions", signed=True),
        Fact("DPO reward accuracy, training pairs", seen, "%"),
        Fact("DPO reward accuracy, unseen pairs", unseen, "%"),
        *(
            Fact(f"{arm.upper()} − SFT encoder in a new MLLM", gap, "%", "stage 3, unseen questions", signed=True)
            for arm, gap in third.items()
        ),
        Fact("Whole study", text.duration(seconds)),
    )


def _summary(results: Results) -> str:
    """DPO and GRPO compared with SFT, as far as the intervals support a statement."""
    lines = [_compared(results, arm) for arm in ("dpo", "grpo")]
    if any("detectable" in line for line in lines):
        lines.append("A detectable difference is one that four of five studies like this would find.")
    return " ".join(lines)


def _compared(results: Results, arm: str) -> str:
    gaps = _gaps(results, arm, "sft")
    lines = []
    for what, gap in gaps.items():
        if gap.excludes_zero:
            ahead = arm.upper() if gap.value > 0 else "SFT"
            value, low, high = (text.number(x, unit="%", signed=True) for x in (gap.value, gap.low, gap.high))
            lines.append(f"{ahead} is ahead in “{what}” ({value} points, {low} to {high})")
    unclear = [gap.detectable for gap in gaps.values() if not gap.excludes_zero]
    if unclear:
        smallest, largest = (text.number(x, unit="%") for x in (min(unclear), max(unclear)))
        which = "any" if len(unclear) == len(gaps) else f"{len(unclear)}"
        lines.append(
            f"no clear difference in {which} of the {len(gaps)} measurements (detectable, by measurement: "
            f"{smallest} to {largest} points)"
        )
    return f"{arm.upper()}'s encoder compared with SFT's, from the same stage 1b per seed: {'; '.join(lines)}."


def _encoder(results: Results, arm: str) -> dict[str, Interval]:
    """The measurements of an arm's encoder."""
    return {
        "class, encoder": statistics.over_seeds(results.classified(arm, "encoder")),
        "class, projector": statistics.over_seeds(results.classified(arm, "projector")),
        "segmentation mIoU": results.segmented(arm),
        "stage 3 answers": statistics.over_seeds(results.answers(f"stage3_{arm}")),
        "stage 3, ranked": statistics.over_seeds(results.answers(f"stage3_{arm}", ranked=True)),
    }


def _gaps(results: Results, first: str, second: str) -> dict[str, Interval]:
    """First arm minus second, on the same items."""

    def answers(ranked: bool) -> Interval:
        one, two = (results.answers(f"stage3_{arm}", ranked) for arm in (first, second))
        return statistics.difference(one, two)

    def classified(kind: str) -> Interval:
        return statistics.difference(results.classified(first, kind), results.classified(second, kind))

    return {
        "class, encoder": classified("encoder"),
        "class, projector": classified("projector"),
        "segmentation mIoU": results.segmented(first, less=second),
        "stage 3 answers": answers(False),
        "stage 3, ranked": answers(True),
    }


def _learning(results: Results) -> Section:
    """Stages 0 to 1b: does the model use the image at all?"""
    rows = {
        "Stage 1b": {
            "accuracy": statistics.over_seeds(results.answers("stage1b")),
            "options ranked": statistics.over_seeds(results.answers("stage1b", ranked=True)),
            **results.by_kind("stage1b"),
        },
        "Stage 1b, zero image": {
            "accuracy": statistics.over_seeds(results.answers("stage1b_blank")),
            "options ranked": statistics.over_seeds(results.answers("stage1b_blank", ranked=True)),
            **results.by_kind("stage1b_blank"),
        },
        "Most frequent answer": {"accuracy": statistics.mean(results.prior)},
    }
    runs = {stage: _metrics(results, stage) for stage in ("stage0", "stage1a", "stage1b")}
    return Section(
        "Learning to see",
        "Arms are worth comparing only if the model uses the image at all. This table shows its accuracy on unseen "
        "questions (new combinations of objects, new handwriting). For comparison, it shows the same model with a grey "
        "image, and the most frequent answer to each question in the training data.",
        (
            tables.scores("Test questions", rows, row_title="Model"),
            Figure("Training loss", plots.training_curves(runs, ("loss", "mean_token_accuracy"))),
        ),
    )


def _stage2(results: Results) -> Section:
    """The arms on the pairs, their answers, and how they were trained."""
    columns = (
        Column("accuracy, training pairs", "%"),
        Column("margin, training pairs", digits=2),
        Column("accuracy, unseen pairs", "%"),
        Column("margin, unseen pairs", digits=2),
    )
    rows = []
    for arm in POST_TRAINED:
        values = [v for split in ("preference", "preference_test") for v in results.pairs(arm, split)]
        rows.append((ARMS[arm], tuple(values)))
    answered = {
        ARMS[arm]: {
            GENERATED: statistics.over_seeds(results.answers(run)),
            RANKED: statistics.over_seeds(results.answers(run, ranked=True)),
        }
        for arm, run in RUN_OF_ARM.items()
    }
    curves = {arm: _metrics(results, arm) for arm in ("sft", "dpo")}
    metrics = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "grad_norm")
    sampled = (
        "reward",
        "frac_reward_zero_std",
        "entropy",
        "completions/mean_length",
        "completions/clipped_ratio",
        "grad_norm",
    )
    return Section(
        "Stage 2: SFT, DPO and GRPO on the same prompts",
        "The implicit reward of an answer is β times its log-ratio to stage 1b. A pair counts as correct if the chosen "
        "answer has the larger reward. The rewards of SFT and GRPO are computed the same way, although SFT is never "
        "trained on a rejected answer, and GRPO on neither: it samples answers to the same prompts, with a reward of 1 "
        "for a right one.",
        (
            Table("Implicit rewards", columns, tuple(rows), row_title="Arm"),
            tables.scores("The arms' own answers to the test questions", answered, row_title="Arm"),
            Figure("SFT and DPO in training", plots.training_curves(curves, metrics)),
            Figure("GRPO in training", plots.training_curves({"grpo": _metrics(results, "grpo")}, sampled)),
        ),
    )


def _encoders(results: Results, measured: dict[str, dict[str, Interval]]) -> Section:
    """The main question: the encoders compared."""
    gaps = {" − ".join(ARMS[arm].removeprefix("+ ") for arm in pair): _gaps(results, *pair) for pair in COMPARISONS}
    named = {ARMS[arm]: values for arm, values in measured.items()}
    return Section(
        "Which encoder is better?",
        "Each arm's encoder is extracted and frozen, then measured in three ways. Logistic regression on its mean "
        "patch features names the colour and shape of the one large object, with regularisation chosen on a separate "
        "split. A small head segments patches. A new decoder is trained on its features (stage 3, with one projector "
        "layer reused and frozen).",
        (
            tables.scores("Encoders", named),
            tables.differences("Differences on the same items", gaps),
            Figure("Differences in points", plots.forest(gaps, zero=True)),
        ),
    )


def _examples(results: Results) -> Section:
    from pivot_jax.data import scenes

    seed = results.seeds[0]
    runs = {
        **{ARMS[arm]: run for arm, run in RUN_OF_ARM.items()},
        **{f"Stage 3, {ARMS[a]}": f"stage3_{a}" for a in ARMS},
    }
    answered = {title: results.predictions(seed, run) for title, run in runs.items()}
    rows = scenes.open_split(results.study.data, "test")
    first = next(iter(answered.values()))
    picked = [
        k for kind in dict.fromkeys(r["category"] for r in first) for k, r in enumerate(first) if r["category"] == kind
    ][:: max(1, len(first) // SHOWN)]
    cards = []
    for index in picked[:SHOWN]:
        answers = tuple(
            Answer(title, answer[index]["answer"], answer[index]["answer"] == answer[index]["gt_answer"])
            for title, answer in answered.items()
        )
        question = first[index]["prompt"].removeprefix("<image>\n")
        cards.append(Card(rows[index]["image"], question, first[index]["gt_answer"], answers))
    about = f"From seed {seed}, with every kind of question."
    return Section("Example answers", about, (Cards("Test questions", tuple(cards)),))


def _gradients(results: Results) -> Section:
    """Maps as images, and how well they cover the object in question."""
    found = results.marker("maps")
    area = np.asarray(found[0]["area"])
    rows: list[tuple[str, tuple[Value, ...]]] = []
    for title in MAPS:
        hit, energy, entropy = (
            np.asarray([one[title][name] for one in found]) for name in ("hit", "energy", "entropy")
        )
        rows.append(
            (title, (statistics.over_seeds(hit), statistics.over_seeds(energy), statistics.over_seeds(entropy)))
        )
    rows.append(("uniform map (chance)", (float(area.mean()), float(area.mean()), 1.0)))
    columns = (
        Column("peak on the object", "%"),
        Column("energy on the object", "%"),
        Column("entropy", digits=2, note="1 is a uniform map"),
    )
    kept = results.maps(results.seeds[0])
    shown = range(min(SHOWN, len(kept["images"])))
    grid = tuple(
        (
            str(kept["texts"][i]),
            (
                Panel(kept["images"][i]),
                *(Panel(gradient_maps.overlay(_enlarged(kept["images"][i]), kept[t][i], border=False)) for t in MAPS),
            ),
        )
        for i in shown
    )
    return Section(
        "Gradient maps",
        "The size of the loss's gradient with respect to each patch's features, for unseen pairs that ask about one "
        "object. The first two maps use the same weights and differ only in the loss.",
        (
            Table("Maps compared with the object in question", columns, tuple(rows), row_title="Map"),
            Grid("Maps", ("image", *MAPS), grid, note="question, chosen / rejected answer"),
        ),
    )


def _enlarged(image: np.ndarray, factor: int = 6) -> np.ndarray:
    return image.repeat(factor, 0).repeat(factor, 1)


def _costs(results: Results, seconds: float) -> Section:
    costs, trained = [], []
    for stage in STAGES:
        found = results.marker(stage)
        sums = {key: sum(one[key] for one in found) for key in ("steps", "samples", "seconds", "flops")}
        costs.append(
            tables.Cost(stage, len(found), int(sums["steps"]), sums["seconds"], sums["flops"], int(sums["samples"]))
        )
        for row in found[0]["trained"]:
            rate = None if isinstance(row["rate"], str) else row["rate"]
            trained.append(tables.Trained(stage, row["group"], row["parameters"], rate))
    return Section(
        "Trained parameters and cost",
        f"Seeds run in parallel, one core each. The whole study took {text.duration(seconds)} of wall time.",
        (
            tables.costs("Time and operations, summed over seeds", costs),
            tables.trained_parameters("Trained parameters and peak learning rates", trained),
            Listing("Settings", results.study.describe()),
        ),
    )


def _metrics(results: Results, stage: str) -> list[list[dict]]:
    return [read_metrics(results.study.folder(seed) / stage / "metrics.jsonl") for seed in results.seeds]


def _numbers(results: Results, measured: dict[str, dict[str, Interval]]) -> dict[str, object]:
    """All numbers that do not depend on time, for comparing two runs."""
    runs = ["stage1b", "stage1b_blank", *POST_TRAINED, *(f"stage3_{arm}" for arm in ARMS)]

    def kept(name: str) -> list[dict]:
        return [{key: value for key, value in one.items() if key != "seconds"} for one in results.marker(name)]

    return {
        "answers": {run: kept(f"answers_{run}") for run in runs},
        "pairs": {arm: kept(f"pairs_{arm}") for arm in POST_TRAINED},
        "probes": {arm: kept(f"probe_{arm}") for arm in ARMS},
        "maps": kept("maps"),
        "encoders": {
            arm: {name: [v.value, v.low, v.high] for name, v in values.items()} for arm, values in measured.items()
        },
        "losses": {stage: [one["metrics"]["loss"] for one in results.marker(stage)] for stage in STAGES},
    }


def _provenance(study: Study) -> dict[str, str]:
    packages = ("pivot-jax", "jax", "flax", "optax", "transformers", "tensorflow-datasets")
    return {
        "folder": str(study.root),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "data seed": str(study.settings.data_seed),
        "training seeds": ", ".join(map(str, study.settings.seeds)),
    }
