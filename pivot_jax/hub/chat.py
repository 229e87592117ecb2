"""Chat templates of Hugging Face folders: our dialects as Jinja, and which dialect a template is."""

from __future__ import annotations

from typing import Any

from pivot_jax.data.processing.dialects import DIALECTS, Dialect

TURNS = (("user", "How many?"), ("assistant", "<think>\nOne.\n</think>\n\nThree."), ("user", "Sure?"))

# As data.processing.template renders: a system turn only where there is a text, an image token for every <image>, no
# empty lines before an answer. A message's content is a string, or a list of {"type": "image"} and {"type": "text"}.
_BODY = """\
{{- first -}}
{%- if system and (not messages or messages[0]['role'] != 'system') -%}
{{- start + 'system' + gap + (system | trim if trims else system) + end -}}
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
{%- if trims -%}
{%- set turn.text = turn.text | trim -%}
{%- elif message['role'] == 'assistant' -%}
{%- set space = turn.text[:(turn.text | length) - (turn.text.lstrip() | length)] -%}
{%- set turn.text = turn.text[([space.rfind('\\n'), space.rfind('\\r')] | max) + 1:] -%}
{%- endif -%}
{%- if message['role'] != 'assistant' -%}
{%- set turn.text = turn.text.replace('<image>', image) -%}
{%- endif -%}
{{- start + message['role'] + gap + turn.text + end -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- start + 'assistant' + gap -}}
{%- endif -%}
"""
_PUT = ".replace('<image>', image)"
_JOINED = ".replace('<image>\\n', image)"  # before it where no newline follows an image


# For libraries that train: answers between the marks that say what is scored, and an image item is the image alone, so
# that texts around it keep their own newlines.
_TURN = "{{- start + message['role'] + gap + turn.text + end -}}"
_SCORED = """\
{{- start + message['role'] + gap -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- turn.text + end -}}
{%- endgeneration -%}
{%- else -%}
{{- turn.text + end -}}
{%- endif -%}"""


def jinja(
    system: str, image: str = "<image>", dialect: str = "chatml", *, newline: bool = True, training: bool = False
) -> str:
    """Our template for ``apply_chat_template``; ``system`` "" leaves the system turn out.

    ``image`` is the placeholder of an image. Without ``newline`` no newline follows it, even where the text has one.
    ``training``: the same texts for a library that trains, with marks around what is scored (``{% generation %}``), and
    no newline of the template's own after an image.
    """
    form = DIALECTS[dialect]
    values = {
        **{"system": system, "image": image, "first": form.first, "start": form.start},
        **{"gap": form.header + form.gap, "end": form.end + form.after},
    }
    # repr writes quotes, newlines and backslashes as Jinja reads them
    lines = [f"{{%- set {name} = {value!r} -%}}\n" for name, value in values.items()]
    body = _BODY if newline else _BODY.replace(_PUT, f"{_JOINED}{_PUT}")
    if training:
        body = body.replace("'<image>\\n' if", "'<image>' if").replace(_TURN, _SCORED)
    return "".join([*lines, f"{{%- set trims = {str(form.trims).lower()} -%}}\n", body])


def dialect_and_system(tokenizer: Any) -> tuple[str, str] | None:
    """The dialect of a tokenizer's chat template, and its default system text ("" if it adds no system turn).

    None if there is no template, or one that writes a conversation in another way than the dialects, such as one that
    drops earlier thinking.
    """
    if not tokenizer.chat_template:
        return None
    for as_list in (False, True):  # some templates know only one of the forms
        contents = [
            {"role": role, "content": [{"type": "text", "text": text}] if as_list else text} for role, text in TURNS
        ]
        try:
            text = tokenizer.apply_chat_template(contents, tokenize=False, add_generation_prompt=True)
        except Exception:  # a foreign template runs here; its errors are not bugs of ours
            continue
        for name, form in DIALECTS.items():
            turns = "".join(form.turn(role, turn) for role, turn in TURNS)
            system = _system_of(text, form, turns + form.opening("assistant"))
            if system is not None:
                return name, system
    return None


def _system_of(text: str, form: Dialect, asked: str) -> str | None:
    """The system text before ``asked``, "" if there is none; None if the text is written otherwise."""
    if not (text.startswith(form.first) and text.endswith(asked)):
        return None
    before = text.removesuffix(asked).removeprefix(form.first)
    inner = before.removeprefix(form.opening("system")).removesuffix(form.end + form.after)
    return inner if not before or before == form.turn("system", inner) else None
