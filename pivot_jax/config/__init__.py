"""A run's config: every key (:mod:`.base`), allowed values (:mod:`.check`), files and overrides (:mod:`.load`)."""

from pivot_jax.config.arguments import folder_and_words
from pivot_jax.config.base import base
from pivot_jax.config.check import validate
from pivot_jax.config.load import (
    differences,
    fingerprint,
    flatten,
    from_file,
    from_json,
    include,
    load,
    merge,
    set_key,
    to_json,
    with_keys,
)
from pivot_jax.config.paths import from_environment
from pivot_jax.packages import make_callable

__all__ = [
    "base",
    "differences",
    "fingerprint",
    "flatten",
    "folder_and_words",
    "from_environment",
    "from_file",
    "from_json",
    "include",
    "load",
    "merge",
    "set_key",
    "to_json",
    "validate",
    "with_keys",
]

make_callable(__name__, "pivot_jax.config.load", "load")  # pivot_jax.config("FILE.py:arg", {"train.steps": 100})
