"""What a language model can do with text alone: perplexity on held-out passages, and twenty fixed questions."""

from pivot_jax.eval.text.ability import Answer, Passage, TextAbility, ability, perplexity_ratio
from pivot_jax.eval.text.passages import PASSAGES
from pivot_jax.eval.text.questions import QUESTIONS

__all__ = ["PASSAGES", "QUESTIONS", "Answer", "Passage", "TextAbility", "ability", "perplexity_ratio"]
