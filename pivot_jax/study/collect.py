"""The results of the demo's seeds, as arrays and intervals for the report."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any

import numpy as np

from pivot_jax.eval import predictions, statistics
from pivot_jax.eval.score import score_file
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import segmentation
from pivot_jax.study.language import majority_answers
from pivot_jax.study.settings import ARMS, POST_TRAINED, Study
from pivot_jax.study.tasks import result

COMPARISONS = (("dpo", "sft"), ("grpo", "sft"), ("grpo", "dpo"), *((arm, "stage1") for arm in POST_TRAINED))


class Results:
    """Reads a finished study. Scores are [seeds, items]. All arms share the items, so comparisons are paired."""

    def __init__(self, study: Study):
        self.study, self.seeds = study, study.settings.seeds

    def marker(self, name: str) -> list[dict[str, Any]]:
        """The result of a task, per seed."""
        return [result(self.study, seed, name) for seed in self.seeds]

    def predictions(self, seed: int, run: str) -> list[dict[str, Any]]:
        return predictions.read(self.study.folder(seed) / "answers" / f"{run}.jsonl")

    def answers(self, run: str, ranked: bool = False) -> np.ndarray:
        """1 where a test question was answered correctly: [seeds, questions]."""
        out = []
        for seed in self.seeds:
            rows = self.predictions(seed, run)
            if ranked:
                out.append([float(row["ranked"] == row["gt_answer"]) for row in rows])
            else:
                out.append(list(score_file(self.study.folder(seed) / "answers" / f"{run}.jsonl", "scenes").scores))
        return np.asarray(out, float)

    def by_kind(self, run: str) -> dict[str, Interval]:
        """Accuracy per kind of question."""
        kinds = [row["category"] for row in self.predictions(self.seeds[0], run)]
        scores = self.answers(run)
        order = dict.fromkeys(kind for kind, _ in self.study.settings.world.questions if kind in kinds)
        return {kind: statistics.over_seeds(scores[:, [k == kind for k in kinds]]) for kind in order}

    @cached_property
    def prior(self) -> np.ndarray:
        """1 where the most frequent answer to the same question in the training data is correct: [questions]."""
        rows = self.predictions(self.seeds[0], "stage1b")
        known = majority_answers(self.study)
        return np.asarray([float(known(row["prompt"]) == row["gt_answer"]) for row in rows])

    @cached_property
    def _probes(self) -> dict[str, list[dict[str, np.ndarray]]]:
        out: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
        for arm in ARMS:
            for seed in self.seeds:
                with np.load(self.study.folder(seed) / "probes" / f"{arm}.npz") as file:
                    out[arm].append({name: file[name] for name in file.files})
        return out

    def classified(self, arm: str, kind: str) -> np.ndarray:
        """1 where the probe named the class: [seeds, images]; kind is encoder | projector."""
        return np.asarray([one[f"class_{kind}"] for one in self._probes[arm]], float)

    def segmented(self, arm: str, less: str = "") -> Interval:
        """Mean IoU over patches (minus that of ``less``), averaged over heads; seeds and images are random."""
        arms = (arm, less) if less else (arm,)
        # [seeds, images, arms, heads, classes, 3]
        sums = np.stack([[one["overlap"].swapaxes(0, 1) for one in self._probes[name]] for name in arms], axis=2)

        def statistic(drawn: np.ndarray) -> np.ndarray:
            values = segmentation.mean_iou(drawn).mean(-1)
            return values[..., 0] - values[..., 1] if less else values[..., 0]

        return statistics.crossed(sums, statistic)

    def pairs(self, arm: str, split: str) -> tuple[Interval, Interval]:
        """Reward accuracy and margin of an arm on a split of pairs."""
        margins = []
        for seed in self.seeds:
            with np.load(self.study.folder(seed) / "pairs" / f"{arm}.npz") as file:
                margins.append(file[split][:, 0] - file[split][:, 1])
        values = np.asarray(margins, float)
        return statistics.over_seeds((values > 0).astype(float)), statistics.over_seeds(values)

    def maps(self, seed: int) -> dict[str, np.ndarray]:
        with np.load(self.study.folder(seed) / "maps.npz") as file:
            return {name: file[name] for name in file.files}
