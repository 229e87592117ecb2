"""The evaluation toolkits whose prompts, limits, parsers and aggregates can be chosen with ``--toolkit``.

The same answers give other scores in each, and another prompt gives other answers, so a result always names its
toolkit, and this table says which version of it was read.
"""

from __future__ import annotations

TOOLKITS: dict[str, str] = {
    "ours": "PIVOT-JAX's own rules: format-robust, without guesses and without a judge",
    "cambrian": "cambrian-mllm/cambrian, eval/, commit 539ffc32 (the PIVOT paper's suite)",
    "lmms-eval": "EvolvingLMMs-Lab/lmms-eval 0.7.2, commit 75571cfe, default prompts of its tasks",
    "vlmevalkit": "open-compass/VLMEvalKit, commit e8e78f05, prompts of its data sets, no judge",
    "llava": "haotian-liu/LLaVA, commit 32cebc38, the scripts of LLaVA-1.5",
}
DEFAULT = "ours"

# Limits where a benchmark sets none: those of the toolkits' LLaVA classes.
LMMS_EVAL_TOKENS = 1024
VLMEVALKIT_TOKENS = 2048
LMMS_EVAL_STOP = ("\n\n",)  # of the tasks that set no stop: an answer ends at its first blank line
