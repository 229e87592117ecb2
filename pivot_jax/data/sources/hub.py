"""Data sets of the Hugging Face hub by name, ``hf:OWNER/NAME[/CONFIG][@SPLIT]``, through the library ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pivot_jax.data.sources.folders import chosen_split
from pivot_jax.data.sources.raw_files import file_fingerprint, optional
from pivot_jax.data.sources.tables import TableRows, of_dataset
from pivot_jax.errors import UserError

PREFIX = "hf:"
REASON = 300  # characters of the library's own message
_NAME = re.compile(r"hf:(?P<id>[^/@\s]+/[^/@\s]+)(?:/(?P<config>[^@\s]+))?(?:@(?P<split>\S+))?")


def from_hub(name: str, split: str = "", config: str = "") -> TableRows:
    """The rows of one split, which the library downloads once and keeps in its cache.

    Args:
      name: as in the module's docstring.
      split, config: where ``name`` has none.

    Raises:
      UserError: not such a name, no access to the hub, no such data set, configuration or split, or several of them
        and none is named.
    """
    found = parse(name)
    if (config and found["config"]) or (split and found["split"]):
        raise UserError(f"{name}: configuration or split is named twice; leave one out")
    config, split = config or found["config"] or "", split or found["split"] or ""
    datasets = optional("datasets", name)
    try:
        loaded = datasets.load_dataset(found["id"], config or None, split=split or None)
    except Exception as error:  # of the library, of its HTTP client, of the file system
        reason = " ".join(str(error).split())[:REASON]  # it lists the configurations in its second line
        raise UserError(
            f"{name}: the library datasets cannot load it ({type(error).__name__}: {reason}); without a network, run "
            f"`hf download --repo-type dataset {found['id']} --local-dir FOLDER` where there is one, and name FOLDER"
        ) from None
    if isinstance(loaded, Mapping):
        split = chosen_split(name, "", loaded, f"name one, such as {name}@{min(loaded)}")
        loaded = loaded[split]
    where = "/".join(filter(None, (found["id"], config, split)))
    return of_dataset(loaded, where, _fingerprint(loaded))


def parse(name: str) -> dict[str, str]:
    """The parts ``id``, ``config`` and ``split`` of a name, "" where it has none. Raises UserError for another text."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{name}: not the name of a data set; write hf:OWNER/NAME, hf:OWNER/NAME/CONFIG@SPLIT or so")
    return found.groupdict("")


def _fingerprint(rows: Any) -> str:
    return "\n".join(file_fingerprint(file["filename"]) for file in rows.cache_files)
