"""A language model as a model of EleutherAI's lm-eval: log-likelihoods of continuations, and generated text.

Texts become tokens as in lm-eval's own class for transformers, so that its published scores can be compared: with the
special tokens that the tokenizer adds by itself, the continuation's tokens being those that follow the context's in
the tokens of both together, and long contexts truncated on the left. Import it where the package ``lm-eval`` is there.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pivot_jax.adapters import generation
from pivot_jax.data.example import Example, Message
from pivot_jax.errors import UserError
from pivot_jax.eval.text.ability import prompt_row
from pivot_jax.models.language_model import LanguageModel, text_batch
from pivot_jax.models.logprobs import score
from pivot_jax.progress import progress
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.rollout.stops import Stops
from pivot_jax.shapes import round_up

NEW_TOKENS = 256  # of an answer, where a task sets no limit (lm-eval's default)
LENGTH_STEP, TARGET_STEP = 64, 16  # lengths are rounded up to multiples, so that few shapes are compiled
KNOWN = {"until", "max_gen_toks", "do_sample"}  # of generation_kwargs, beside sampling
STEPS = 16  # tokens after which a prompt takes the slot of an answered one

Request = tuple[Any, list[int], list[int]]  # what lm-eval's cache knows it by, context ids, continuation ids


class LmEvalModel(TemplateLM):
    """A language model alone, for ``lm_eval.simple_evaluate(model=…)``.

    Args:
      module, params: of an ``OpenLanguageModel`` (parameters below ``decoder``).
      tokenizer: of ``transformers``.
      batch_size: rows scored, or answered, together.
      seed: of sampled answers; tasks mostly ask for greedy ones.
      max_length: tokens of a row; 0: as many as the model was made for (``max_position_embeddings``).

    Raises:
      UserError: a tokenizer without an end token, or with more tokens than the model has.
    """

    def __init__(
        self,
        module: LanguageModel,
        params: Any,
        tokenizer: Any,
        *,
        batch_size: int = 16,
        seed: int = 0,
        max_length: int = 0,
        show: bool = True,
    ):
        super().__init__()
        self.module, self.params, self.tokenizer, self.show = module, params, tokenizer, show
        self.decoder = module.config.decoder
        self.batch_size, self.seed, self.max_length = batch_size, seed, max_length or self.decoder.max_positions
        if tokenizer.eos_token_id is None:
            raise UserError("lm-eval: the tokenizer has no end token, so no answer would end; name one in its config")
        if len(tokenizer) > self.decoder.vocab_size:
            raise UserError(
                f"lm-eval: the tokenizer has {len(tokenizer)} tokens and the model {self.decoder.vocab_size}; they do "
                "not belong together"
            )
        self._sampler: Sampler | None = None

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What comes before a text without a context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; where nothing else is asked for, with special tokens unless it starts with the first one."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Turns as text in the tokenizer's own template. Raises UserError where it has none."""
        if self.tokenizer.chat_template is None:
            raise UserError("lm-eval: the tokenizer has no chat template; leave --chat-template out")
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs: Any) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding would give it.

        Continuations that differ in their last token only (the letters of multiple choice) are scored in one row.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            rows.setdefault(tuple([*context, *continuation][-self.max_length - 1 : -1]), []).append(index)
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        ordered = sorted(rows.items(), key=lambda row: -len(row[0]))
        with progress("log-likelihoods", len(requests), show=self.show) as advance:
            for start in range(0, len(ordered), self.batch_size):
                part = ordered[start : start + self.batch_size]
                targets = [[requests[index][2][-len(ids) :] for index in own] for ids, own in part]
                values = self._scores([ids for ids, _ in part], targets)
                for (_, own), results in zip(part, values, strict=True):
                    for index, result in zip(own, results, strict=True):
                        found[index] = result
                        if requests[index][0] is not None:
                            self.cache_hook.add_partial("loglikelihood", requests[index][0], result)
                    advance(len(own))
        return found

    def _scores(
        self, rows: Sequence[tuple[int, ...]], targets: Sequence[Sequence[list[int]]]
    ) -> list[list[tuple[float, bool]]]:
        """Results of the continuations of each row, whose ids are followed by the continuation's last token."""
        filled = [*rows, *[rows[0][:1]] * (self.batch_size - len(rows))]
        most = round_up(max(sum(map(len, own)) for own in targets), TARGET_STEP)
        sources, ids = np.zeros((2, len(filled), most), np.int32)
        weights = np.zeros((len(filled), most), np.float32)
        for row, own in enumerate(targets):
            at = 0
            for continuation in own:
                part = slice(at, at + len(continuation))
                sources[row, part] = np.arange(len(rows[row]) - len(continuation), len(rows[row]))
                ids[row, part], weights[row, part] = continuation, 1.0
                at += len(continuation)
        none = np.zeros_like(ids)
        batch = replace(
            text_batch(filled, self.decoder, multiple=LENGTH_STEP),
            sources=sources,
            targets=ids,
            weights=weights,
            target_branches=none,
            target_rows=none,
        )
        logps, greedy = map(np.asarray, _score(self.module, self.params, batch))
        found: list[list[tuple[float, bool]]] = []
        for row, own in enumerate(targets):
            ends = np.cumsum([0, *map(len, own)])
            spans = [slice(*pair) for pair in itertools.pairwise(ends)]
            found.append([(float(logps[row, one].astype(float).sum()), bool(greedy[row, one].all())) for one in spans])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token after as much of its text as fits."""
        windows: list[Request] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(index)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that follow the contexts, each up to the first of its task's stop strings."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        found = [""] * len(requests)
        for own in groups.values():
            texts = self._generate([requests[index].args[0] for index in own], requests[own[0]].args[1])
            for index, text in zip(own, texts, strict=True):
                found[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return found

    def _generate(self, contexts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(settings, NEW_TOKENS))
        generation.check(kwargs, KNOWN, "lm-eval", "in generation_kwargs of the task, set")
        until, limit = [string for string in kwargs["until"] if string], kwargs["max_gen_toks"]
        if limit >= self.max_length:
            raise UserError(
                f"lm-eval: a task asks for {limit} new tokens, and the model reads {self.max_length} in all"
            )
        prompts = []
        for number, context in enumerate(contexts):
            ids = self.tok_encode(context)[-(self.max_length - limit) :] or [self.prefix_token_id]
            name = f"lm-eval-{number}"
            prompts.append(
                Prompt(Example(name, (Message("user", context),)), prompt_row(name, ids, self.decoder), number)
            )
        sampling = Sampling(
            limit,
            **generation.sampling(kwargs),
            stop_ids=(self.eot_token_id,),
            stop=tuple(string for string in until if self._is_written(string)),
        )
        with progress("answers", len(prompts), show=self.show) as advance:
            rollouts = self._sampling_engine().generate(prompts, 1, sampling, (self.seed, 0), advance)
        texts = [self.tokenizer.decode(one.tokens, skip_special_tokens=True) for (one,) in rollouts.responses]
        return [min((text.split(string, 1)[0] for string in until), key=len, default=text) for text in texts]

    def _is_written(self, string: str) -> bool:
        """Whether the tokenizer can write a stop string. Tasks name the end tokens of many tokenizers."""
        try:
            Stops(self.tokenizer, (string,))
        except UserError:
            return False
        return True

    def _sampling_engine(self) -> Sampler:
        """The sampler, which is made for the first answer: likelihoods need none."""
        if self._sampler is None:
            shape = Shape(slots=self.batch_size, prompts=min(4, self.batch_size), steps=STEPS)
            self._sampler = Sampler(self.module, None, shape, tokenizer=self.tokenizer)
            self._sampler.update(self.params, 0)
        return self._sampler


@partial(jax.jit, static_argnums=0)
def _score(module: LanguageModel, params: Any, batch: Any) -> tuple[Any, Any]:
    stats = score(module, params, batch)
    return stats.logps, stats.correct > 0
