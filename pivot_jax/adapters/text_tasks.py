"""Text-only tasks of lm-eval on weight sources: a trained run, a Hugging Face folder, a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pivot_jax.errors import UserError
from pivot_jax.train.open import open_language_model

if TYPE_CHECKING:
    from pivot_jax.adapters.lm_eval_tasks import TaskResults


def text_tasks(weights: str, tasks: Sequence[str], *, batch_size: int = 16, **options: Any) -> TaskResults:
    """Scores of tasks such as ``mmlu``, ``hellaswag`` and ``gsm8k``; of a whole MLLM those of its language model.

    Args:
      weights: as of ``text_ability``.
      options: of ``lm_eval_tasks.TaskOptions``.

    Raises:
      UserError: lm-eval is not installed, no such weights, one without a tokenizer; or as ``run_tasks``.
    """
    try:
        from pivot_jax.adapters import lm_eval, lm_eval_tasks
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise UserError("--tasks: the package lm-eval is not installed; pip install 'pivot-jax[lm-eval]'") from None
    model = open_language_model(weights)
    if model.tokenizer is None:
        raise UserError(f"{weights} has no tokenizer to read texts with; name the run or the Hugging Face folder")
    own = lm_eval.LmEvalModel(
        model.module, model.params, model.tokenizer, batch_size=batch_size, seed=options.get("seed", 0)
    )
    return lm_eval_tasks.run_tasks(own, tasks, lm_eval_tasks.TaskOptions(**options))
