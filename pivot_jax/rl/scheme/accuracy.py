"""Accuracy of sampled responses: per question, pass@k, majority vote; over epochs and runs as in the paper's tables.

Letters: q questions, r runs (seeds), e epochs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ByQuestion:
    """Responses counted by question, which are in ascending order.

    Attributes:
      questions: int [q].
      responses, right: int [q], how many there are and how many are correct.
    """

    questions: np.ndarray
    responses: np.ndarray
    right: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """avg@k: the share of each question's responses that are correct, float [q]."""
        return self.right / self.responses


def by_question(questions: np.ndarray, correct: np.ndarray) -> ByQuestion:
    """Counts responses: their questions int [n], and whether they are correct, bool [n]."""
    found, index = np.unique(questions, return_inverse=True)
    return ByQuestion(found, np.bincount(index), np.bincount(index, weights=correct).astype(int))


def pass_at_k(found: ByQuestion, k: int) -> np.ndarray:
    """Probability that one of k responses is correct, unbiased from n ≥ k: 1 - C(n - c, k) / C(n, k). Float [q].

    Chen et al. 2021, "Evaluating large language models trained on code". With n = k it is whether any is correct, which
    is what MAYE computes.

    Raises:
      ValueError: a question with fewer than k responses.
    """
    if k < 1 or found.responses.min() < k:
        raise ValueError(f"pass@{k} needs {k} or more responses to every question, one has {found.responses.min()}")
    wrong = (found.responses - found.right).astype(float)
    missed = np.ones(len(wrong))
    for drawn in range(k):
        missed *= np.maximum(wrong - drawn, 0.0) / (found.responses - drawn)
    return 1.0 - missed


def majority(questions: np.ndarray, answers: Sequence[Hashable], correct: np.ndarray) -> np.ndarray:
    """Whether the most frequent answer to each question is correct, float [q], questions ascending.

    Of answers that are equally frequent, the one that was given first counts, so that nothing is drawn.

    Args:
      questions: int [n]. answers: the text of each response's answer [n]. correct: bool [n].
    """
    votes: dict[int, dict[Hashable, list[int]]] = {}
    for index, (question, answer) in enumerate(zip(questions.tolist(), answers, strict=True)):
        votes.setdefault(question, {}).setdefault(answer, []).append(index)
    first = (max(of_question.values(), key=len)[0] for _, of_question in sorted(votes.items()))
    return np.asarray([float(correct[index]) for index in first])


@dataclass(frozen=True)
class OverEpochs:
    """What the paper's tables print of curves: shares, 0..1.

    Attributes:
      mean: over epochs and runs.
      maximum: the mean over runs of each run's best epoch. Choosing an epoch by the score that is reported makes it too
        high: it is shown as what it is.
    """

    mean: float
    maximum: float


def over_epochs(curves: np.ndarray) -> OverEpochs:
    """Mean and maximum of accuracy curves, float [r, e], each computed per run and then averaged over runs."""
    curves = np.atleast_2d(np.asarray(curves, float))
    return OverEpochs(float(curves.mean(axis=1).mean()), float(curves.max(axis=1).mean()))


def chosen_epochs(validation: np.ndarray) -> np.ndarray:
    """The epoch of each run's best validation accuracy, the first of equal ones: int [r] from float [r, e]."""
    return np.argmax(np.atleast_2d(validation), axis=1)
