"""A synthetic report with every kind of block, for the tests and for viewing the page."""

from __future__ import annotations

import numpy as np

from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe.gradient_maps import overlay
from pivot_jax.report import content, plots, tables
from pivot_jax.report.content import Answer, Card, Cards, Fact, Figure, Grid, Listing, Panel, Report, Section
from pivot_jax.report.tables import Cost, Trained

ARMS = ("Stage 0 encoder", "Stage 1 only", "SFT", "DPO")


def disc_image(seed: int, size: int = 32) -> np.ndarray:
    """A noisy square with a coloured disc."""
    generator = np.random.default_rng(seed)
    image = generator.normal(60, 18, (size, size, 3))
    rows, columns = np.mgrid[:size, :size]
    centre = generator.integers(8, size - 8, 2)
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 40
    image[disc] = np.array([(220, 70, 60), (70, 130, 230), (90, 200, 110)][seed % 3])
    return np.clip(image, 0, 255).astype(np.uint8)


def metric_rows(arm: int, seed: int) -> list[dict]:
    generator = np.random.default_rng((arm, seed))
    steps = np.arange(10, 410, 10)
    loss = 0.69 * np.exp(-steps / (140 + 30 * arm)) + 0.05 + generator.normal(0, 0.02, len(steps))
    rows = [{"step": int(s), "loss": float(v), "grad_norm": float(1 + v)} for s, v in zip(steps, loss, strict=True)]
    if arm:
        for row in rows:
            row["rewards/margins"] = float(2 * (1 - row["loss"]))
    return rows


def scores(offset: float, n: int = 600) -> Interval:
    values = (np.random.default_rng(int(1000 * offset)).random(n) < offset).astype(float)
    return statistics.mean(values, draws=300)


def sample() -> Report:
    results = {
        arm: {
            "Classification": scores(0.52 + 0.06 * i),
            "Segmentation mIoU": scores(0.31 + 0.03 * i),
            "VQA": scores(0.6 + 0.03 * i),
        }
        for i, arm in enumerate(ARMS)
    }
    gaps = {
        "SFT − Stage 1": {"Classification": Interval(0.021, -0.008, 0.05), "VQA": Interval(0.034, 0.012, 0.057)},
        "DPO − Stage 1": {"Classification": Interval(0.046, 0.02, 0.071), "VQA": Interval(-0.031, -0.052, -0.011)},
        "DPO − SFT": {"Classification": Interval(0.025, -0.002, 0.052), "VQA": Interval(-0.065, -0.09, -0.04)},
    }
    p_values = {name: {metric: 0.012 for metric in row} for name, row in gaps.items()}
    runs = {arm: [metric_rows(i, seed) for seed in range(2)] for i, arm in enumerate(("SFT", "DPO"))}
    rows = []
    for index in range(3):
        image = disc_image(index)
        maps = [np.random.default_rng((index, k)).random((8, 8)).astype(np.float32) ** 3 for k in range(3)]
        shown = [
            Panel(image),
            *(Panel(overlay(image, m), f"energy {0.1 * (k + 2):.2f}, area 0.12") for k, m in enumerate(maps)),
        ]
        rows.append(("What colour is the large disc?", tuple(shown)))
    cards = tuple(
        Card(
            disc_image(i),
            "What colour is the disc on the left of the image?",
            "red",
            tuple(
                Answer(arm, text, text == "red")
                for arm, text in zip(
                    ARMS[1:], ("red", "blue", "It is <red> & round, as far as I can see."), strict=True
                )
            ),
        )
        for i in range(6)
    )
    trained = [
        Trained("1a · projector", "vision", 210_000, None),
        Trained("1a · projector", "projector", 12_000, 1e-3),
        Trained("1a · projector", "decoder", 400_000, None),
        Trained("2 · DPO", "vision", 210_000, 2e-6),
        Trained("2 · DPO", "projector", 12_000, 1e-6),
        Trained("2 · DPO", "decoder", 400_000, 1e-6),
    ]
    stages = [
        Cost("1a · projector", 2, 400, 31.0, 3.2e12, 25_600),
        Cost("2 · SFT", 2, 600, 65.4, 9.1e12, 38_400),
        Cost("2 · DPO", 2, 600, 91.0, 1.4e13, 38_400),
    ]
    return Report(
        title="Does preference learning make the encoder see better?",
        subtitle="A synthetic example page: 32-pixel scenes, 2 seeds.",
        facts=(
            Fact("DPO − SFT, classification probe", gaps["DPO − SFT"]["Classification"], "%", "2 seeds", signed=True),
            Fact("Stage 1b over its blank-image control", Interval(0.27, 0.24, 0.3), "%", signed=True),
            Fact("Reward accuracy, training pairs", 0.93, "%"),
            Fact("Time", "11 min 40 s", note="2 CPU cores"),
        ),
        summary="The arms differ little.\n\nThis second paragraph says <why> & how sure we are.",
        sections=(
            Section(
                "Encoder probes",
                "Frozen features, linear reader.",
                (
                    tables.scores("Scores per encoder", results),
                    Figure("Scores with intervals", plots.forest(results)),
                    tables.differences("Paired differences", gaps, p_values=p_values),
                    Figure("Differences", plots.forest(gaps, zero=True)),
                ),
            ),
            Section(
                "Training",
                "",
                (
                    Figure("Curves", plots.training_curves(runs, ("loss", "grad_norm", "rewards/margins"))),
                    Figure(
                        "Probe against C",
                        plots.lines(
                            {"val": ([0.01, 1, 100], [0.3, 0.5, 0.6]), "test": ([0.01, 1, 100], [0.28, 0.49, 0.55])},
                            xlabel="C",
                            ylabel="accuracy",
                            log_x=True,
                        ),
                    ),
                    tables.trained_parameters("What was trained", trained),
                    tables.costs("Cost", stages),
                ),
            ),
            Section("Answers", "", (Cards("Examples", cards),)),
            Section(
                "Gradient maps",
                "",
                (
                    Grid("Gradients of the loss", ("Image", *ARMS[1:]), tuple(rows), "Jet over the darkened image."),
                    Listing("Config", "seed = 0\nname = 'demo'"),
                ),
            ),
        ),
        scope=(
            "Toy images of 32 pixels; the results say nothing about photographs.",
            "Two seeds: the spread between seeds is roughly known at best.",
        ),
        provenance={"config": "3f2a9c41", "versions": "jax 0.10.2, flax 0.12.8"},
    )


__all__ = ["ARMS", "content", "sample"]
