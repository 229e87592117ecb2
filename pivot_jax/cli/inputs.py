"""Checks of a command's inputs, files and prompts, before anything is computed."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # formats that an image can be written as


def file(option: str, text: str) -> Path:
    """The path of an existing file. Raises UserError for a missing one; the message names the most similar."""
    from pivot_jax.config.paths import nearest

    path = Path(text)
    if not text:
        raise UserError(f"{option}: the name is empty; name a file")
    if path.is_dir():
        raise UserError(f"{option} {text}: this is a folder; name a file in it")
    if not path.is_file():
        raise UserError(f"{option} {text}: there is no such file{nearest(path, files=True)}")
    return path


def image(option: str, text: str) -> None:
    """Raises UserError for a missing file or one that is not an image."""
    from pivot_jax.data.processing import images

    file(option, text)
    try:
        images.load(text)
    except UserError as error:
        raise UserError(f"{option}: {error}; give an image, such as a PNG, JPEG or WebP file") from None


def question(text: str) -> None:
    """Raises UserError for a prompt with image placeholders: the command adds them."""
    if "<image>" in text:
        raise UserError("--prompt: leave out '<image>'; every --image is put before the prompt automatically")


def predictions(text: str) -> Path:
    """The path of a predictions file, ours or another toolkit's. Raises UserError for a file that is neither."""
    from pivot_jax.eval import answer_files

    path = file("--predictions", text)
    if answer_files.toolkit_of(path):
        return path
    with path.open(encoding="utf-8", errors="replace") as lines:
        if not any('"question_id"' in line for line in lines):
            raise UserError(
                f"--predictions {text}: no line holds a 'question_id', so this is not a predictions file, nor one of "
                "lmms-eval, VLMEvalKit or LLaVA; `pivot-jax eval` writes one, by default WORKDIR/eval/BENCHMARK.jsonl"
            )
    return path


def class_names(text: str) -> tuple[str, ...]:
    """``Sky,Building,…``, or a file with one name per line.

    Raises:
      UserError: neither (a misspelt file), fewer than two names, an empty name or a repeated one.
    """
    if "," in text and not Path(text).is_file():
        names = [name.strip() for name in text.split(",")]
    else:
        names = _lines(text)
    if "" in names or len(names) < 2:
        raise UserError(f"--classes {text}: two or more names are needed, none empty, in the order of their ids from 0")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--classes {text}: '{twice[0]}' is repeated; every id needs its own name")
    return tuple(names)


def _lines(text: str) -> list[str]:
    try:
        content = file("--classes", text).read_text(encoding="utf-8")
    except UserError as error:
        raise UserError(f"{error} (or give the names directly: a,b,c in the order of their ids)") from None
    except UnicodeDecodeError:
        raise UserError(f"--classes {text}: not a text file; write one name per line") from None
    return [line.strip() for line in content.splitlines() if line.strip()]
