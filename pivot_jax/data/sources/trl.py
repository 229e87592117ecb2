"""TRL's data set types: language modelling, prompt-only, prompt-completion, and preference, paired or not.

Text or conversational.
"""

from __future__ import annotations

from typing import Any

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import IMAGE, ImageRoot, Mapped, Source, listed, root_of, rooted
from pivot_jax.data.sources.rows import need, open_rows
from pivot_jax.errors import RowError

Conversation = str | list[Any]
_KNOWN = ("id", "messages", "prompt", "completion", "label", "chosen", "rejected", "images", "image", "image_rejected")


def trl(path: Any, image_root: str | ImageRoot | None = None, split: str = "") -> Source:
    """Rows as TRL's trainers take them; which type a row has is read from its fields.

    ``messages`` | ``prompt`` + ``completion`` | ``prompt`` | ``prompt`` + ``chosen`` + ``rejected`` | ``chosen`` +
    ``rejected`` (implicit prompt: the longest common prefix) | ``prompt`` + ``completion`` + ``label`` (an answer that
    is desirable, True, or not) | ``prompt`` + ``chosen`` + ``image_rejected`` (a visual pair as of mDPO, which TRL does
    not have: the answer to the prompt with ``images``, and the same answer with other ones in their place). ``path`` is
    a file, a list of rows, or a folder (:func:`rows.open_rows`). Images: ``images`` or ``image``; paths, bytes,
    ``{"bytes", "path"}``, arrays or PIL images.
    """
    root = root_of(path, image_root)
    return Mapped(open_rows(path, split), lambda row, row_id: trl_example(row, row_id, root), f"trl|{root}")


def trl_example(row: dict[str, Any], row_id: str, image_root: ImageRoot) -> Example:
    """One TRL row → Example.

    Raises:
      RowError: fields that fit none of the types, an answer that is not one assistant turn, or a label that is not
        true or false.
    """
    own = list(listed(row.get("images")) or listed(row.get("image")))
    instead = listed(row.get("image_rejected"))
    if instead and row.get("rejected") is not None:
        raise RowError(row_id, "'rejected' and 'image_rejected' in one row; write the visual pair as a row of its own")
    chosen = rejected = None
    if "messages" in row:
        turns = need(row, "messages", (list, tuple), row_id)
    elif instead:
        turns = _as_turns(need(row, "prompt", (str, list, tuple), row_id), "user")
        chosen = _answer(need(row, "chosen", (str, list, tuple), row_id), "chosen", row_id)
    elif "chosen" in row or "rejected" in row:
        turns, chosen, rejected = _preference(row, row_id)
    elif row.get("completion") is not None and row.get("label") is not None:
        turns = _as_turns(need(row, "prompt", (str, list, tuple), row_id), "user")
        answer = _answer(need(row, "completion", (str, list, tuple), row_id), "completion", row_id)
        chosen, rejected = (answer, None) if _desirable(row, row_id) else (None, answer)
    else:
        turns = _as_turns(need(row, "prompt", (str, list, tuple), row_id), "user")
        if row.get("completion") is not None:
            turns = [*turns, *_as_turns(need(row, "completion", (str, list, tuple), row_id), "assistant")]
    messages, inline = _messages(turns, len(own), row_id)
    images = rooted(inline or own, image_root, row_id)
    labelled = chosen is not None or rejected is not None
    extra = {k: v for k, v in row.items() if k not in _KNOWN or (k == "label" and not labelled)}
    others = rooted(instead, image_root, row_id)
    return Example(row_id, messages, (*images, *others), chosen, rejected, extra, images_rejected=len(others))


def _desirable(row: dict[str, Any], row_id: str) -> bool:
    label = row["label"]
    if label not in (0, 1):  # True and False too, of JSON, NumPy and parquet
        raise RowError(row_id, f"label {label!r} is not true or false")
    return bool(label)


def _as_turns(value: Conversation, role: str) -> list[Any]:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _preference(row: dict[str, Any], row_id: str) -> tuple[list[Any], str, str]:
    chosen = need(row, "chosen", (str, list, tuple), row_id)
    rejected = need(row, "rejected", (str, list, tuple), row_id)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError(row_id, "'chosen' and 'rejected' must both be text or both be conversations")
    if row.get("prompt") is not None:
        prompt = need(row, "prompt", (str, list, tuple), row_id)
    else:
        cut = common_prefix(chosen, rejected)
        prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
    return _as_turns(prompt, "user"), _answer(chosen, "chosen", row_id), _answer(rejected, "rejected", row_id)


def common_prefix(chosen: Conversation, rejected: Conversation) -> int:
    """Length of the implicit prompt, as TRL's ``extract_prompt``: a space before the difference goes to the answers."""
    size = min(len(chosen), len(rejected))
    cut = next((i for i in range(size) if chosen[i] != rejected[i]), size)
    if isinstance(chosen, str) and cut and chosen[cut - 1] == " ":
        cut -= 1
    return cut


def _answer(value: Conversation, field: str, row_id: str) -> str:
    """The text of a completion."""
    if isinstance(value, str):
        return value.lstrip(" ")
    turns = list(value)
    if len(turns) != 1 or not isinstance(turns[0], dict) or turns[0].get("role") != "assistant":
        raise RowError(row_id, f"'{field}' must add exactly one assistant turn to the prompt, it adds {len(turns)}")
    text, images = _text(turns[0], row_id)
    if images or IMAGE in text:
        raise RowError(row_id, f"'{field}' holds an image; only prompts may")
    return text


def _messages(turns: Any, count: int, row_id: str) -> tuple[tuple[Message, ...], list[Any]]:
    """Turns → messages with ``<image>`` where images go, and the images of typed parts."""
    messages, inline = [], []
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            role = turn.get("role") if isinstance(turn, dict) else turn
            raise RowError(row_id, f"a turn has role {role!r}, not system, user or assistant")
        text, images = _text(turn, row_id)
        inline += images
        messages.append(Message(turn["role"], text))
    if count and not any(IMAGE in message.content for message in messages):
        first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
        if first is not None:  # plain text content: TRL puts the images before the first user text
            messages[first] = Message("user", f"{IMAGE}\n" * count + messages[first].content)
    return tuple(messages), inline


def _text(turn: dict[str, Any], row_id: str) -> tuple[str, list[Any]]:
    """Content as text with ``<image>\\n`` for image parts, and the images that those parts contain."""
    content = need(turn, "content", (str, list, tuple), row_id)
    if isinstance(content, str):
        return content, []
    text, images = "", []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text += need(part, "text", str, row_id)
        elif kind == "image":
            text += f"{IMAGE}\n"
            if part.get("image") is not None:
                images.append(part["image"])
        else:
            raise RowError(row_id, f"content part of type {kind!r}, not text or image")
    return text, images
