"""The model ``pivot_jax`` of lmms-eval 0.7: a run of ours, asked in lmms-eval's own process.

``lmms-eval --model pivot_jax --model_args workdir=DIR --batch_size 16 --tasks …``. Tasks that generate are asked in
messages (:class:`PivotJax`). lmms-eval has no messages for tasks that compare likelihoods; with ``--force_simple`` it
takes :class:`PivotJaxSimple`.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from pivot_jax.adapters import generation
from pivot_jax.adapters.model import KEPT, Limits, Request, ToolkitModel
from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import IMAGE, placed
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_TOKENS
from pivot_jax.progress import progress
from pivot_jax.words import counted

# Of generation_kwargs, beside sampling. Temperature says what do_sample does, the model's own preset the aspect ratio.
KNOWN = {"max_new_tokens", "until", "do_sample", "image_aspect_ratio"}
ALONE = "pivot_jax runs in one process, which uses all devices; start lmms-eval without `accelerate launch`"


class _Model(lmms):
    """Both classes: the open model, and the answers to tasks that generate. They differ in what a request holds.

    Args:
      workdir, step, weights: as :class:`ToolkitModel`.
      batch_size: questions answered together; "auto": ``eval.batch_size`` of the run's config.
    """

    def __init__(
        self,
        workdir: str = "",
        step: int | None = None,
        weights: str = "",
        batch_size: int | str = "auto",
        max_batch_size: Any = None,
        device: Any = None,
        **others: Any,
    ):
        super().__init__()
        if others:
            raise UserError(f"--model_args: '{next(iter(others))}' is unknown; there are workdir, step and weights")
        if device is not None or max_batch_size is not None:
            raise UserError("--device, --max_batch_size: JAX takes the devices of $JAX_PLATFORMS; leave both out")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(ALONE)
        self.model = ToolkitModel(str(workdir), step, str(weights), _size(batch_size))

    def document(self, task: str, split: str, doc_id: int) -> Any:
        return self.task_dict[task][split][doc_id]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, each drawn and ended as its task says."""
        return [reply.text for reply in self.model.answer([self._request(*one.args) for one in requests], "lmms-eval")]

    @abc.abstractmethod
    def _request(self, *args: Any, **kwargs: Any) -> Request:
        """What a request of lmms-eval asks, by its arguments."""

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise UserError("tasks of several rounds are not supported by pivot_jax; choose tasks of one round")


class PivotJax(_Model):
    """Asks the messages of each task, with the images where the task puts them."""

    is_simple = False

    def _request(
        self, context: str, to_messages: Any, options: Mapping[str, Any], doc_id: int, task: str, split: str
    ) -> Request:
        return Request(partial(self._example, to_messages, doc_id, task, split), limits(options, task))

    def _example(self, to_messages: Any, doc_id: int, task: str, split: str) -> Example:
        return conversation(to_messages(self.document(task, split, doc_id)), name_of(task, split, doc_id))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise UserError("lmms-eval compares likelihoods with simple models only; add --force_simple")


class PivotJaxSimple(_Model):
    """Asks one text for each document, after its images; the class of likelihood tasks."""

    is_simple = True

    def _request(
        self, text: str, options: Mapping[str, Any], to_images: Any, doc_id: int, task: str, split: str
    ) -> Request:
        return Request(partial(self._example, text, to_images, doc_id, task, split), limits(options, task))

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Of each continuation: its negative log-likelihood per token, and whether it is the greedy answer.

        The sign is lmms-eval's: its tasks take the option with the smallest number. The blank between prompt and
        continuation, which lmms-eval puts for models of raw text, is left out: the chat template separates them.
        """
        questions: dict[tuple[Any, ...], list[int]] = {}
        for index, request in enumerate(requests):
            text, _, _, doc_id, task, split = request.args
            questions.setdefault((task, split, doc_id, text), []).append(index)
        results: dict[int, tuple[float, bool]] = {}
        listed = list(questions.items())
        with progress("lmms-eval", len(requests)) as advance:
            for start in range(0, len(listed), KEPT):
                part = listed[start : start + KEPT]
                examples = [
                    self._example(text, requests[found[0]].args[2], doc_id, task, split)
                    for (task, split, doc_id, text), found in part
                ]
                options = [[self._continuation(requests[index]) for index in found] for _, found in part]
                for (_, found), scores in zip(part, self._scores(examples, options), strict=True):
                    results |= zip(found, scores, strict=True)
                    advance(len(found))
        # lmms-eval 0.7.3 makes a text of a bare pair, on which its tasks then fail. It leaves alone what is in this.
        return [GenerationResult(results[index]) for index in range(len(requests))]

    def _scores(self, examples: list[Example], options: list[list[str]]) -> list[list[tuple[float, bool]]]:
        answerer = self.model.answerer
        sums, counts = answerer.option_logps(examples, options)
        losses = -sums / np.maximum(counts, 1)
        greedy = answerer.answer(examples, int(counts.max()), temperature=0.0)
        return [
            [(float(losses[row, i]), reply.finished and reply.text == text) for i, text in enumerate(texts)]
            for row, (texts, reply) in enumerate(zip(options, greedy, strict=True))
        ]

    def _continuation(self, request: Any) -> str:
        _, continuation, _, doc_id, task, split = request.args
        text = continuation if isinstance(continuation, str) else continuation(self.document(task, split, doc_id))
        return str(text).strip()

    def _example(self, text: str, to_images: Any, doc_id: int, task: str, split: str) -> Example:
        images = tuple(to_images(self.document(task, split, doc_id)) or ()) if to_images else ()
        name = name_of(task, split, doc_id)
        _check_images(images, name)
        return Example(name, (Message("user", placed(text, len(images))),), images)


def name_of(task: str, split: str, doc_id: int) -> str:
    """Identifies a question in messages, and in the random numbers of sampled answers."""
    return f"{task}/{split}/{doc_id}"


def limits(options: Mapping[str, Any], task: str) -> Limits:
    """A task's ``generation_kwargs``. As in lmms-eval's own models, answers are sampled at a temperature above 0.

    Raises:
      UserError: beams, penalties, or other settings that change answers and are not supported.
    """
    generation.check(options, KNOWN, f"task {task}", "add --gen_kwargs")
    until = options.get("until") or ()
    return Limits(
        int(options.get("max_new_tokens") or LMMS_EVAL_TOKENS),
        (until,) if isinstance(until, str) else tuple(until),
        **generation.sampling(options),
    )


def conversation(messages: Sequence[Mapping[str, Any]], name: str) -> Example:
    """lmms-eval's messages with parts of type text and image, as an example.

    An image before any text of its message stands on a line of its own, as in training; others stay inside the text.
    Where a text says ``<image>`` as often as there are images, that is where they go.

    Raises:
      UserError: video or audio.
    """
    turns, images = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text, own = _turn(parts, name)
        turns.append(Message(message["role"], text))
        images += own
    return Example(name, tuple(turns), tuple(images))


def _turn(parts: Sequence[Mapping[str, Any]], name: str) -> tuple[str, list[Any]]:
    images = [part["url"] for part in parts if part["type"] != "text"]
    if other := [part["type"] for part in parts if part["type"] not in ("text", "image")]:
        raise UserError(f"{name}: it has {other[0]}; pivot_jax reads text and images")
    _check_images(images, name)
    marks = sum(part["text"].count(IMAGE) for part in parts if part["type"] == "text")
    if marks not in (0, len(images)):
        raise UserError(f"{name}: {IMAGE} is {marks} times in the text, for {counted(len(images), 'image')}")
    text = ""
    for part in parts:
        if part["type"] == "text":
            text += part["text"]
        elif not marks:
            text += IMAGE if text.replace(f"{IMAGE}\n", "") else f"{IMAGE}\n"
    return text, images


def _check_images(images: Sequence[Any], name: str) -> None:
    """A task hands out images, or paths of images. Raises UserError for videos and audio."""
    for image in images:
        if isinstance(image, dict) or not (hasattr(image, "convert") or isinstance(image, str | bytes | np.ndarray)):
            raise UserError(f"{name}: {type(image).__name__} in place of an image; pivot_jax reads text and images")


def _size(batch_size: int | str) -> int:
    """Raises UserError for what is not a whole number from 1, nor "auto"."""
    if str(batch_size) == "auto":
        return 0
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise UserError(f"--batch_size: '{batch_size}' is not a whole number from 1, nor auto")
    return int(batch_size)
