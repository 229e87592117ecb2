"""What a study measures on a finished run, by kind."""

from collections.abc import Callable, Mapping

from pivot_jax.study.measures import answers, encoder, gradients, heldout, pairs, responses, text
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome

KINDS: Mapping[str, Callable[[Task], Outcome]] = {
    "answers": answers.answers,
    "class_probe": encoder.class_probe,
    "extract": encoder.extract,
    "gradient_maps": gradients.gradient_maps,
    "heldout": heldout.heldout,
    "majority": answers.majority,
    "pairs": pairs.pairs,
    "responses": responses.responses,
    "scenes_probe": encoder.scenes_probe,
    "text": text.text,
}

__all__ = ["KINDS", "Task"]
