"""LLaVA's formats: conversations in JSON or JSON Lines, YAML mixtures of them, and NeXT's preference JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import ImageRoot, Joined, Mapped, Source, front_image, root_of, rooted, with_images
from pivot_jax.data.sources.choose import sample
from pivot_jax.data.sources.rows import existing, need, open_rows
from pivot_jax.errors import RowError, UserError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_KNOWN = ("id", "image", "images", "conversations")


def conversation_example(row: dict[str, Any], row_id: str, image_root: ImageRoot) -> Example:
    """``{"id", "image": str | list, "conversations": [{"from", "value"}, ...]}`` → Example.

    Turns before the first human turn (other than a system turn) are left out, as LLaVA does.

    Raises:
      RowError: a missing field, an unknown speaker, or no answer at the end.
    """
    messages: list[Message] = []
    for turn in need(row, "conversations", (list, tuple), row_id):
        if not isinstance(turn, dict):
            raise RowError(row_id, f"a turn is {type(turn).__name__}, not an object with 'from' and 'value'")
        speaker = need(turn, "from", str, row_id)
        if speaker not in ROLES:
            raise RowError(row_id, f"unknown speaker '{speaker}' (known: {', '.join(ROLES)})")
        role, text = ROLES[speaker], need(turn, "value", str, row_id)
        if role == "assistant" and all(message.role == "system" for message in messages):
            continue
        messages.append(Message(role, front_image(text) if role == "user" else text))
    if not messages or messages[-1].role != "assistant":
        raise RowError(row_id, "the conversation does not end with an answer")
    images = rooted(row.get("image", row.get("images")), image_root, row_id)
    return Example(row_id, tuple(messages), images, extra={k: v for k, v in row.items() if k not in _KNOWN})


def llava(path: Any, image_root: str | ImageRoot | None = None) -> Source:
    """LLaVA JSON or JSON Lines. ``image_root`` defaults to the file's folder."""
    root = root_of(path, image_root)
    return Mapped(open_rows(path), lambda row, row_id: conversation_example(row, row_id, root), f"llava|{root}")


def llava_yaml(path: str, image_root: str | ImageRoot | None = None, seed: int = 0) -> Source:
    """LLaVA mixture: ``datasets: [{json_path, sampling_strategy}]``; see :func:`choose.sample` for the strategies.

    Relative ``json_path`` are taken from the YAML file's folder, or from the working folder if it is not there.

    Raises:
      UserError: not such a file, or an unknown strategy.
    """
    file = existing(path)
    try:
        mixture = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    entries = mixture.get("datasets") if isinstance(mixture, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: has no list 'datasets' of {{json_path, sampling_strategy}}")
    root, parts = ImageRoot.of(image_root), list[Source]()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
            raise UserError(f"{path}: entry {number} of 'datasets' has no 'json_path', or one that is not text")
        beside = Path(path).parent / entry["json_path"]
        where = beside if beside.exists() else Path(entry["json_path"])
        if not where.exists():
            raise UserError(f"{path}: entry {number}: no file {beside}, nor {where} from the working folder")
        source = llava(where, root if root.folder is not None else replace(root, folder=entry.get("image_root")))
        # Each entry has its own stream, so a new entry does not change the rows that the others draw.
        parts.append(
            sample(source, str(entry.get("sampling_strategy", "all")), seed + number, f"{path}, entry {number}")
        )
    return Joined(parts)


def next_dpo(path: Any, image_root: str | ImageRoot | None = None) -> Source:
    """NeXT's preference rows ``{"image", "prompt", "chosen", "rejected"}``; the prompt has no ``<image>``."""
    root = root_of(path, image_root)

    def convert(row: dict[str, Any], row_id: str) -> Example:
        return preference_example(row, row_id, root, question_key="prompt")

    return Mapped(open_rows(path), convert, f"next_dpo|{root}")


def preference_example(row: dict[str, Any], row_id: str, image_root: ImageRoot, question_key: str) -> Example:
    """A flat row of question, chosen, rejected and image(s) → Example. ``<image>`` is put first where absent."""
    images = rooted(row.get("image", row.get("images")), image_root, row_id)
    question = with_images(need(row, question_key, str, row_id), len(images))
    chosen, rejected = need(row, "chosen", str, row_id), need(row, "rejected", str, row_id)
    known = ("id", "image", "images", "chosen", "rejected", question_key)
    extra = {k: v for k, v in row.items() if k not in known}
    return Example(row_id, (Message("user", question),), images, chosen, rejected, extra)
