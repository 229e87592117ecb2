"""Chat templates of Hugging Face folders: ours as Jinja, and the system text of somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

START, END = "<|im_start|>", "<|im_end|>"
LEGACY = "chat_template.json"  # where processors of transformers before 5 keep theirs

# What data.template renders: the system turn only where there is a text, an image place for every <image>, no empty
# lines in front of an answer. A message's content is a string, or a list of {"type": "image"} and {"type": "text"}.
_BODY = """\
{%- if system and (not messages or messages[0]['role'] != 'system') -%}
{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set turn = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set turn.text = message['content'] -%}
{%- else -%}
{%- for item in message['content'] -%}
{%- set turn.text = turn.text + ('<image>\\n' if item['type'] == 'image' else item['text']) -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{%- set space = turn.text[:(turn.text | length) - (turn.text.lstrip() | length)] -%}
{%- set turn.text = turn.text[([space.rfind('\\n'), space.rfind('\\r')] | max) + 1:] -%}
{%- else -%}
{%- set turn.text = turn.text.replace('<image>', image) -%}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' + turn.text + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
_PUT = ".replace('<image>', image)"
_JOINED = ".replace('<image>\\n', image)"  # in front of it where no newline follows a picture


def jinja(system: str, image: str = "<image>", *, newline: bool = True) -> str:
    """Our ChatML template for ``apply_chat_template``; ``system`` "" leaves the system turn out.

    ``image`` stands for a picture; without ``newline`` no newline follows it, also where the text has one.
    """
    # repr writes quotes, newlines and backslashes as Jinja reads them
    body = _BODY if newline else _BODY.replace(_PUT, f"{_JOINED}{_PUT}")
    return f"{{%- set system = {system!r} -%}}\n{{%- set image = {image!r} -%}}\n{body}"


def system_text(tokenizer: Any, folder: Path) -> str | None:
    """Default system text of a folder's chat template ("" if it has no system turn by itself).

    None if the folder has no template, or one that does not render a question as ChatML, which is all that we can
    render.
    """
    template = None if tokenizer.chat_template else _legacy(folder)  # None: the tokenizer's own
    if not (tokenizer.chat_template or template):
        return None
    question = "How many?"
    for content in (question, [{"type": "text", "text": question}]):  # some templates know only one of the forms
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template, tokenize=False, add_generation_prompt=True,
            )  # fmt: skip
        except Exception:  # somebody's template runs here; whatever it raises is no bug of ours
            continue
        turn = f"{START}user\n{question}{END}\n{START}assistant\n"
        if not text.endswith(turn):
            continue
        before = text.removesuffix(turn)
        inner = before.removeprefix(f"{START}system\n").removesuffix(f"{END}\n")
        if not before or before == f"{START}system\n{inner}{END}\n":
            return inner
    return None


def _legacy(folder: Path) -> str | None:
    try:
        return json.loads((folder / LEGACY).read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
