"""The argument of a config file, for files that take a folder and words: ``runs/real/seed0,full``."""

from __future__ import annotations

from collections.abc import Sequence

from pivot_jax.errors import UserError, suggest


def folder_and_words(arg: str, default: str, known: Sequence[str], where: str) -> tuple[str, frozenset[str]]:
    """(folder, words) of ``FOLDER,WORD,…``: both may be missing, in any order.

    Args:
      default: the folder where none is named.
      known: words that the config knows. Anything with a slash is a folder.
      where: the config, for messages.

    Raises:
      UserError: a word that is not known, or two folders.
    """
    parts = [part for part in arg.split(",") if part]
    folders = [part for part in parts if "/" in part]
    words = [part for part in parts if "/" not in part]
    allowed = ", ".join(known) or "none"
    if wrong := [word for word in words if word not in known]:
        raise UserError(
            f"{where}: unknown word '{wrong[0]}' (allowed: {allowed}; a folder has a slash){suggest(wrong[0], known)}"
        )
    if len(folders) > 1:
        raise UserError(f"{where}: two folders, {folders[0]} and {folders[1]}; write FOLDER or FOLDER,WORD")
    return (folders or [default])[0], frozenset(words)
