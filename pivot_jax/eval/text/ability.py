"""Perplexity and fixed questions of a language model: what training on images leaves of its text ability.

A passage is scored by itself, every token but its first, as ``exp(-mean log p)``. Questions are asked in the
tokenizer's own chat template, alone, and answered greedily. Both are the same for every model with the same tokenizer,
so values before and after a training are paired.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.eval.text.passages import PASSAGES
from pivot_jax.eval.text.questions import QUESTIONS
from pivot_jax.models.language_model import LanguageModel, text_batch
from pivot_jax.models.logprobs import score
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape

LONGEST = 48  # tokens of an answer
TOGETHER = 5  # passages scored at once
MULTIPLE = 16  # tokens; passages are padded to a multiple of it
TEXTS_SHA256 = hashlib.sha256("\0".join([*PASSAGES, *map(str, QUESTIONS)]).encode()).hexdigest()
_WORD = re.compile(r"[a-z0-9]+")
_SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")


@dataclass(frozen=True)
class Passage:
    """``nll``: minus the log-probability of all its tokens but the first, nats."""

    nll: float
    tokens: int  # that are scored


@dataclass(frozen=True)
class Answer:
    """``right``: one of the accepted words is in the answer's first sentence. A coarse rule, so read the texts too."""

    prompt: str
    text: str
    right: bool


@dataclass(frozen=True)
class TextAbility:
    """Results of one model, comparable where ``texts`` (a hash of passages and questions) and the tokenizer agree."""

    passages: tuple[Passage, ...]
    answers: tuple[Answer, ...]
    texts: str = TEXTS_SHA256

    @property
    def perplexity(self) -> Interval:
        """exp(mean nats per token) over all passages; the interval draws passages."""
        return statistics.bootstrap(_sums(self), lambda sums: np.exp(sums[:, 0] / sums[:, 1]))

    @property
    def correct(self) -> Interval:
        """Share of right answers."""
        return statistics.mean(np.array([float(answer.right) for answer in self.answers]))


def ability(module: LanguageModel, params: Any, tokenizer: Any, decoder: Any) -> TextAbility:
    """Scores :data:`PASSAGES` and asks :data:`QUESTIONS`.

    Args:
      module, params: a language model alone (parameters below ``decoder``).
      decoder: its ``DecoderConfig``.

    Raises:
      UserError: a tokenizer without a chat template or an end token, or with more tokens than the model has.
    """
    if len(tokenizer) > decoder.vocab_size:
        raise UserError(
            f"text ability: the tokenizer has {len(tokenizer)} tokens and the model {decoder.vocab_size}; they do not "
            "belong together"
        )
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        lacks = "end token" if tokenizer.chat_template else "chat template"
        raise UserError(f"text ability: the tokenizer has no {lacks}; take that of an instructed model")
    return TextAbility(
        _passages(module, params, tokenizer, decoder, PASSAGES), _answers(module, params, tokenizer, decoder)
    )


def perplexity_ratio(before: TextAbility, after: TextAbility) -> Interval:
    """Perplexity after ÷ before, on the same passages: above 1, text ability was lost. The interval draws passages.

    Raises:
      UserError: other texts, or another tokenizer.
    """
    first, second = _sums(before), _sums(after)
    if before.texts != after.texts or not np.array_equal(first[:, 1], second[:, 1]):
        raise UserError("text ability: the two results are of other texts or tokenizers; measure both again")
    paired = np.stack([second[:, 0] - first[:, 0], first[:, 1]], axis=1)
    return statistics.bootstrap(paired, lambda sums: np.exp(sums[:, 0] / sums[:, 1]))


def _sums(found: TextAbility) -> np.ndarray:
    return np.array([(passage.nll, passage.tokens) for passage in found.passages], float)


def _passages(
    module: LanguageModel, params: Any, tokenizer: Any, decoder: Any, texts: Sequence[str]
) -> tuple[Passage, ...]:
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    found = []
    for start in range(0, len(rows), TOGETHER):
        own = rows[start : start + TOGETHER]
        # one shape for all: filled up with rows of one token, which have no targets, and to the longest passage
        filled = [*own, *[own[0][:1]] * (TOGETHER - len(own)), own[0][:1] * longest]
        batch = text_batch(filled, decoder, multiple=MULTIPLE)
        logps = np.asarray(_score(module, params, batch))
        found += [Passage(-float(logps[row, : len(ids) - 1].sum()), len(ids) - 1) for row, ids in enumerate(own)]
    return tuple(found)


@partial(jax.jit, static_argnums=0)
def _score(module: LanguageModel, params: Any, batch: Any) -> Any:
    return score(module, params, batch).logps


def _answers(module: LanguageModel, params: Any, tokenizer: Any, decoder: Any) -> tuple[Answer, ...]:
    prompts = []
    for number, question in enumerate(QUESTIONS):
        turns = [{"role": "user", "content": question.prompt}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        example = Example(f"text-{number}", (Message("user", question.prompt),))
        prompts.append(Prompt(example, prompt_row(example.id, ids, decoder), number))
    sampler = Sampler(module, None, Shape(slots=len(prompts), prompts=TOGETHER, steps=LONGEST))
    sampler.update(params, 0)
    sampling = Sampling(LONGEST, temperature=0.0, stop_ids=(tokenizer.eos_token_id,))
    rollouts = sampler.generate(prompts, 1, sampling, (0, 0))
    found = []
    for question, (response,) in zip(QUESTIONS, rollouts.responses, strict=True):
        text = tokenizer.decode(response.tokens, skip_special_tokens=True).strip()
        words = set(_WORD.findall(_SENTENCE.split(text.lower(), maxsplit=1)[0]))
        found.append(Answer(question.prompt, text, bool(words & set(question.accepted))))
    return tuple(found)


def prompt_row(name: str, ids: Sequence[int], decoder: Any) -> EncodedRow:
    """A prompt of text alone."""
    tokens, none = np.asarray(ids, np.int32), np.zeros(0, np.int32)
    where = np.arange(len(tokens), dtype=np.int32)
    positions = np.asarray(decoder.text_positions(where[None]))[0]
    return EncodedRow(name, tokens, np.full_like(where, -1), positions, np.zeros_like(where), none, none, none)
