"""Shell scripts from templates. Every value is quoted there with the filter ``q``; nothing else is escaped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import jinja2

END = "PIVOT_JAX_CONFIG"  # of a here-document; JSON in lines of ours has no such line


def script(template: str, **values: Any) -> str:
    """The template filled in; a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pivot_jax.launch"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        comment_start_string="{/*",  # in bash {# begins the number of items
        comment_end_string="*/}",
    )
    environment.filters["q"] = quoted
    return environment.get_template(template).render(END=END, **values)


def quoted(value: str | int | Sequence[str]) -> str:
    """A word, or words, as a shell reads them."""
    if isinstance(value, (str, int)):
        return shlex.quote(str(value))
    return shlex.join(value)
