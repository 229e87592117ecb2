"""Folders are replaced only where every file in them was written by us and is as it was written."""

from __future__ import annotations

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
