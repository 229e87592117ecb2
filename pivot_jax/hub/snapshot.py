"""A model by its name on the Hugging Face hub, or by a folder: to the folder, and to what is in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pivot_jax.config.paths import nearest
from pivot_jax.errors import UserError

# config and processor, safetensors, tokenizer: no pickles, and no copies in other frameworks' formats
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def folder_of(place: str | Path) -> Path:
    """The folder (or file) that ``place`` is; or of a name ORG/NAME the snapshot, downloaded where it is not kept yet.

    A path that exists is never taken for a name. ``HF_HUB_OFFLINE=1`` keeps to what was downloaded before.

    Raises:
      UserError: a name that cannot be downloaded; another path that is not there is returned as it is.
    """
    path = Path(place)
    if path.exists() or not _NAME.fullmatch(str(place)):
        return path
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(str(place), allow_patterns=list(FILES)))
    except (OSError, ValueError, errors.HTTPError, errors.EntryNotFoundError) as error:
        raise UserError(f"'{place}': {_reason(error)}{nearest(path)}; {_mend(str(place))}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "this model asks for its licence to be accepted on its page, and for `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such folder, and no such model on the hub (or it is private)"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "there is no such folder, HF_HUB_OFFLINE is set, and no download of it is kept"
    first = str(error).strip().splitlines() or [type(error).__name__]
    return f"there is no such folder, and the hub cannot be reached ({first[0]})"


def _mend(name: str) -> str:
    return f"where there is a network: hf download {name} --local-dir DIR, and name DIR"


def from_hub(place: str | Path, **load: Any) -> tuple[Any, dict[str, Any]]:
    """What a folder or a model of the hub holds: its :class:`HubModel` and its parameters.

    Args:
      place: a folder, or a name such as ``google/siglip2-so400m-patch16-384``. Its dimensions alone are in
        ``models.zoo``, without a network.
      load: as for :func:`hub.load.load_params`: shardings, dtype, ``prefix``, ``final``.

    Raises:
      UserError: see :func:`folder_of` and :func:`hub.load.load_params`.
    """
    from pivot_jax.hub import configs
    from pivot_jax.hub.load import load_params

    folder = folder_of(place)
    return configs.read(folder), load_params(folder, **load)
