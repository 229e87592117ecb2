"""Text ability of a run's language model: what training on images leaves of it."""

from __future__ import annotations

import numpy as np

from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome
from pivot_jax.train.text_ability import text_ability


def text(task: Task) -> Outcome:
    """Perplexity on held-out passages, and twenty fixed questions (:mod:`pivot_jax.eval.text`).

    Items: ``nll`` [passages], nats per token; ``correct`` [questions].
    """
    found = text_ability(f"run:{task.folder}")
    items = {
        "nll": np.asarray([one.nll / one.tokens for one in found.passages], np.float32),
        "correct": np.asarray([one.right for one in found.answers]),
    }
    answers = [[one.prompt, one.text] for one in found.answers]
    return Outcome({"perplexity": found.perplexity.value, "correct": found.correct.value, "answers": answers}, items)
