"""Checks of what a command is given: files and pictures, before anything is computed."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # what a picture may be written as


def file(option: str, text: str) -> Path:
    """Raises UserError where there is no file; names the nearest one."""
    from pivot_jax.config.paths import nearest

    path = Path(text)
    if not text:
        raise UserError(f"{option}: the name is empty; name a file")
    if path.is_dir():
        raise UserError(f"{option} {text}: this is a folder; name a file in it")
    if not path.is_file():
        raise UserError(f"{option} {text}: there is no such file{nearest(path, files=True)}")
    return path


def picture(option: str, text: str) -> None:
    """Raises UserError where there is no file, or one that is no picture."""
    from pivot_jax.data.processing import images

    file(option, text)
    try:
        images.load(text)
    except UserError as error:
        raise UserError(f"{option}: {error}; give a picture, such as a PNG, JPEG or WebP file") from None


def question(text: str) -> None:
    """Raises UserError for a prompt with marks for pictures: the command sets them itself."""
    if "<image>" in text:
        raise UserError("--prompt: leave out '<image>'; every --image is put in front of the prompt")


def predictions(text: str) -> Path:
    """Raises UserError where there is no file of predictions: no line of it is a JSON object with a question's id."""
    path = file("--predictions", text)
    with path.open(encoding="utf-8", errors="replace") as lines:
        if not any('"question_id"' in line for line in lines):
            raise UserError(
                f"--predictions {text}: no line holds a 'question_id', so this is no file of predictions; `pivot-jax "
                "eval` writes one, by default WORKDIR/eval/BENCHMARK.jsonl"
            )
    return path


def class_names(text: str) -> tuple[str, ...]:
    """``Sky,Building,…``, or a file with one name per line.

    Raises:
      UserError: neither (a misspelt file), fewer than two names, an empty name or one that is there twice.
    """
    if "," in text and not Path(text).is_file():
        names = [name.strip() for name in text.split(",")]
    else:
        names = _lines(text)
    if "" in names or len(names) < 2:
        raise UserError(f"--classes {text}: two or more names are needed, none empty, in the order of their ids from 0")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--classes {text}: '{twice[0]}' is there twice; every id needs its own name")
    return tuple(names)


def _lines(text: str) -> list[str]:
    try:
        content = file("--classes", text).read_text(encoding="utf-8")
    except UserError as error:
        raise UserError(f"{error} (or give the names themselves: a,b,c in the order of their ids)") from None
    except UnicodeDecodeError:
        raise UserError(f"--classes {text}: not a text file; write one name per line") from None
    return [line.strip() for line in content.splitlines() if line.strip()]
