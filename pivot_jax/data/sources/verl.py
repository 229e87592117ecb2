"""Prompts for online RL in the layouts of EasyR1 and verl: Parquet files, folders of them, or ``datasets`` folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import SandboxedEnvironment

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import ImageRoot, Mapped, Source, listed, placed, root_of, rooted
from pivot_jax.data.sources.rows import need, open_rows
from pivot_jax.data.sources.trl import trl_example
from pivot_jax.errors import RowError, UserError


def easyr1(
    path: Any,
    image_root: str | ImageRoot | None = None,
    split: str = "",
    format_prompt: str = "",
    problem_key: str = "problem",
    answer_key: str = "answer",
    image_key: str = "images",
) -> Source:
    """EasyR1's rows ``{problem, answer, images}`` as prompts; ``<image>`` in the problem is where an image goes.

    Args:
      path: a file or folder, see :func:`rows.open_rows`; split: of a folder with several.
      format_prompt: a Jinja file that makes the prompt from the problem, which it calls ``content``; "" for none.

    The answer is ``extra["answer"]``; all other fields go to ``Example.extra`` too.

    Raises:
      UserError: no such file or split, or ``format_prompt`` is not such a template.
    """
    root = root_of(path, image_root)
    template, render = _template(format_prompt)

    def convert(row: dict[str, Any], row_id: str) -> Example:
        images = rooted(listed(row.get(image_key)), root, row_id)
        text = placed(render(need(row, problem_key, str, row_id)), len(images))
        extra = {key: value for key, value in row.items() if key not in ("id", problem_key, answer_key, image_key)}
        extra["answer"] = row.get(answer_key)
        return Example(row_id, (Message("user", text),), images, extra=extra)

    options = f"easyr1|{root}|{template}|{problem_key}|{answer_key}|{image_key}"
    return Mapped(open_rows(path, split), convert, options)


def _template(path: str) -> tuple[str, Callable[[str], str]]:
    """Text of a template file, and what makes a prompt of a problem."""
    if not path:
        return "", lambda problem: problem
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
        template = SandboxedEnvironment().from_string(text)
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise UserError(f"data.sources: format_prompt {path} cannot be read as a Jinja template ({error})") from None
    if "content" not in text:
        raise UserError(f"data.sources: format_prompt {path} lacks the problem; write {{{{ content }}}} in it")
    return text, lambda problem: template.render(content=problem)


def verl(path: Any, image_root: str | ImageRoot | None = None, split: str = "") -> Source:
    """verl's rows ``{prompt, images, reward_model: {ground_truth}, data_source, extra_info}`` as prompts.

    ``prompt`` is a conversation in which ``<image>`` is where an image goes. ``extra["answer"]`` and
    ``extra["ground_truth"]`` are ``reward_model.ground_truth``; the other fields go to ``Example.extra`` as they are.
    """
    root = root_of(path, image_root)
    return Mapped(open_rows(path, split), lambda row, row_id: verl_example(row, row_id, root), f"verl|{root}")


def verl_example(row: dict[str, Any], row_id: str, image_root: ImageRoot) -> Example:
    """One row of verl → Example.

    Raises:
      RowError: as ``trl.trl_example``, a video, or a ``reward_model`` without named fields.
    """
    if listed(row.get("videos")):
        raise RowError(row_id, "field 'videos' is not empty; only images are supported")
    judge = row.get("reward_model")
    if judge is not None and not isinstance(judge, Mapping):
        raise RowError(row_id, f"field 'reward_model' is {type(judge).__name__}, not an object with 'ground_truth'")
    images = [_reference(image) for image in listed(row.get("images"))]
    own = {key: value for key, value in row.items() if key not in ("images", "videos")}
    example = trl_example({**own, "images": images}, row_id, image_root)
    truth = None if judge is None else judge.get("ground_truth")
    if truth is None:
        return example
    return Example(example.id, example.messages, example.images, extra={**example.extra, "answer": truth,
                                                                        "ground_truth": truth})  # fmt: skip


def _reference(image: Any) -> Any:
    """``{"image": path}``, also as a ``file://`` address, is how Qwen's vision processing names a file."""
    if isinstance(image, Mapping) and image.get("image") is not None:
        image = image["image"]
    return image.removeprefix("file://") if isinstance(image, str) else image
