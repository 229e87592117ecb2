"""A model's folder from its name on the Hugging Face hub, or from a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pivot_jax.config.paths import located, nearest
from pivot_jax.data.processing.tokenizer import GGUF
from pivot_jax.errors import UserError
from pivot_jax.hub import gguf

# config and processor, safetensors, tokenizer: no pickles, and no copies in other frameworks' formats
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def folder_of(model: str | Path) -> Path:
    """The folder (or file) at a path; for a name ORG/NAME its snapshot, which is downloaded unless the cache has it.

    A GGUF file is converted to a folder (:mod:`hub.gguf`). ``package:NAME/FILE`` is a file of an installed Python
    package. A path that exists is never taken for a name. With ``HF_HUB_OFFLINE=1`` only the cache is used. Another
    path that does not exist is returned unchanged.

    Raises:
      UserError: a name that cannot be downloaded, a GGUF file that cannot be read, or a package that is not installed.
    """
    path = located(model)
    if path.suffix == GGUF and path.is_file():
        return gguf.folder_of_gguf(path)
    if path.exists() or not _NAME.fullmatch(str(model)):
        return path
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(str(model), allow_patterns=list(FILES)))
    except (OSError, ValueError, errors.HTTPError, errors.EntryNotFoundError) as error:
        raise UserError(f"'{model}': {_reason(error)}{nearest(path)}; {_fix(str(model))}") from error


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


def _fix(name: str) -> str:
    return f"where there is a network: hf download {name} --local-dir DIR, and name DIR"
