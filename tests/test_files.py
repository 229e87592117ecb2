"""Files are written completely or not at all; folders are replaced only if we wrote every file in them."""

from __future__ import annotations

import os

import pytest

from pivot_jax import files
from pivot_jax.errors import UserError


def write(folder, text="new", overwrite=True):
    with files.whole_folder(folder, overwrite=overwrite) as into:
        (into / "inner").mkdir()
        (into / "inner" / "a.txt").write_text(text)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_own_folder_is_replaced_only_on_request(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    write(out, "old", overwrite=False)
    with pytest.raises(UserError, match="is not empty; choose another folder, or add --overwrite"):
        write(out, overwrite=False)
    write(out)
    assert (out / "inner" / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("change", ["add", "edit", "link", "marker", "folder"])
def test_what_somebody_else_wrote_is_kept(tmp_path, change):
    out = tmp_path / "out"
    write(out, "old")
    match change:
        case "add":
            (out / "inner" / "mine.txt").write_text("mine")
        case "edit":
            (out / "inner" / "a.txt").write_text("own words")
        case "link":
            (out / "inner" / "a.txt").unlink()
            (out / "inner" / "a.txt").symlink_to(tmp_path)
        case "marker":
            (out / files.MARKER).write_text("{}")
        case "folder":
            (out / "mine").mkdir()
    before = content(out)
    with pytest.raises(UserError, match="did not write|not written by this command"):
        write(out)
    assert content(out) == before


def test_a_failure_leaves_the_old_folder_and_no_partial_one(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(UserError, match="could not be written"), files.whole_folder(out, overwrite=True):
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), files.whole_folder(out, overwrite=True):
        _ = 1 / 0
    assert (out / "inner" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    files.write_text(path, "old")
    for error in (OSError(28, "No space left on device"), ZeroDivisionError()):
        with pytest.raises((UserError, ZeroDivisionError)), files.whole(path) as partial:
            partial.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]


def test_a_device_is_written_to_directly(tmp_path):
    """An option such as --out /dev/stdout: the device stays, and nothing is made beside it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo() and [one.name for one in tmp_path.iterdir()] == ["pipe"]
