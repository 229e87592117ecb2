"""Sampled responses as they are looked at: lines of ``completions/NUMBER.jsonl``, and a table for the tracker."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax import files
from pivot_jax.data.processing.images import load
from pivot_jax.errors import UserError
from pivot_jax.rl.groups import Group
from pivot_jax.train.trackers.base import TextTable

COMPLETIONS = "completions"
THUMBNAIL = 256  # pixels of the longer side
SHOWN_PROMPTS, SHOWN_RESPONSES = 4, 4  # of a rollout in the tracker


@dataclass(frozen=True)
class Answered:
    """A group with the texts of its responses.

    Attributes:
      values: float32 [t] of each response by the name of the batch's field (``Trajectory.values``); None: the policy
        update after the rollout does not train with this group.
    """

    group: Group
    texts: Sequence[str]
    values: Mapping[str, Sequence[np.ndarray]] | None = None


def with_values(answered: Sequence[Answered], groups: Sequence[Group], values: Mapping[str, Any]) -> list[Answered]:
    """``answered`` with what the update knows of those that it trains with.

    Args:
      groups: of the update; the same objects as in ``answered``.
      values: of each of their responses, groups after each other.
    """
    of_group, first = {}, 0
    for group in groups:
        last = first + len(group.responses)
        of_group[id(group)] = {name: own[first:last] for name, own in values.items()}
        first = last
    return [Answered(one.group, one.texts, of_group.get(id(one.group))) for one in answered]


def completion_lines(answered: Sequence[Answered], images: Path | None = None) -> list[dict[str, Any]]:
    """A line per response.

    ``logp`` is the sum of the sampler's log-probs (where it reports none, of the trainer's), ``advantage`` the mean
    over the tokens of what they are trained with, null without; ``version`` the number of optimizer steps that made
    the weights; ``answer`` the row's right one, where it has a field of that name. An image is its path, or else the
    path of its thumbnail (:func:`reference`).

    Args:
      images: folder for thumbnails of images that are not files.
    """
    lines = []
    for one in answered:
        group = one.group
        seen = [reference(image, images) for image in group.example.images]
        for index, (response, text) in enumerate(zip(group.responses, one.texts, strict=True)):
            own = {name: values[index] for name, values in (one.values or {}).items()}
            logps = response.logps if np.isfinite(response.logps).all() else own.get("old_logps", response.logps)
            lines.append(
                {
                    "id": group.example.id,
                    "sample": index,
                    "prompt": group.example.messages[-1].content,
                    "images": seen,
                    "answer": _plain(group.example.extra.get("answer")),
                    "completion": text,
                    "finish": response.finish,
                    "tokens": len(response.tokens),
                    "logp": _number(np.sum(logps, dtype=np.float64)),
                    "reward": _number(group.total[index]),
                    "rewards": {name: _number(values[index]) for name, values in group.rewards.items()},
                    "advantage": _number(np.mean(own["advantages"], dtype=np.float64)) if own else None,
                    "trained": one.values is not None,
                    "version": group.version,
                }
            )
    return lines


def as_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def reference(image: Any, folder: Path | None) -> str:
    """The path of an image file; of any other image, of a thumbnail in ``folder``, relative to the folder above it.

    The thumbnail is written if it is missing; its name is a hash of its content. Without a folder, the kind of object.

    Raises:
      UserError: an image that cannot be read, or a thumbnail that cannot be written.
    """
    if isinstance(image, str | Path):
        return str(image)
    if folder is None:
        return f"<{type(image).__name__}>"
    data = thumbnail(image)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.png"
    if not path.exists():
        with files.whole(path) as partial:
            partial.write_bytes(data)
    return str(path.relative_to(folder.parent.parent))


def thumbnail(image: Any) -> bytes:
    """PNG of an image reference, made smaller to :data:`THUMBNAIL`. Raises as ``images.load``."""
    small = load(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def table(answered: Sequence[Answered]) -> TextTable:
    """The first responses to the first prompts, with the images of these prompts, for the tracker.

    An image that cannot be read has been noticed already (its row was skipped, or it is gone since); it is left out.
    """
    shown = [
        Answered(one.group, one.texts, one.values) for one in answered if one.values is not None
    ] or list(answered)  # fmt: skip
    rows: list[tuple[str, ...]] = []
    pngs: list[bytes] = []
    seen: list[tuple[int, ...]] = []
    labels = list(shown[0].group.rewards) if shown else []
    for one in shown[:SHOWN_PROMPTS]:
        before = len(pngs)
        pngs += _pngs(one.group.example.images)
        own = tuple(range(before, len(pngs)))
        for line in completion_lines([one])[:SHOWN_RESPONSES]:
            parts = (line["rewards"][label] for label in labels)
            numbers = (line["reward"], *parts, line["advantage"], line["logp"])
            shown_numbers = ("–" if value is None else f"{value:.4g}" for value in numbers)
            seen.append(own)
            rows.append((line["prompt"], line["completion"], *shown_numbers, str(line["tokens"]), line["finish"]))
    columns = ("prompt", "completion", "reward", *labels, "advantage", "log-prob", "tokens", "end")
    return TextTable(COMPLETIONS, columns, tuple(rows), tuple(pngs), tuple(seen) if pngs else ())


def _pngs(images: Sequence[Any]) -> list[bytes]:
    found = []
    for image in images:
        try:
            found.append(thumbnail(image))
        except UserError:
            continue
    return found


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
