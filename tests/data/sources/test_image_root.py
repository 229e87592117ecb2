"""Which files the rows of a data set may name as images: those in its root, whatever the format."""

from __future__ import annotations

import json

import pytest

from pivot_jax import config
from pivot_jax.data.sources import open_source, read
from pivot_jax.data.sources.base import ImageRoot
from pivot_jax.errors import RowError, UserError
from tests.data.conftest import llava_row, preference_row, write_jsonl

ROWS = {
    "llava": llava_row(0),
    "next_dpo": {**preference_row(0), "prompt": "q"},
    "mmpr": preference_row(0),
    "preference_pairs": preference_row(0),
    "trl": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "qa": {"question": "q", "answer": "a"},
    "scienceqa": {"question": "q", "choices": ["a", "b"], "answer": "A"},
    "maye": {"question": "q", "answer": "a"},
    "easyr1": {"problem": "q", "answer": "a", "image_key": "image"},
    "verl": {"prompt": [{"role": "user", "content": "<image>q"}]},
    "vlm_r1": llava_row(0),
}
FIELD = {"verl": "images", "easyr1": "images"}


def source(tmp_path, form: str, image, **options):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    row = {**ROWS[form], "id": "bad", FIELD.get(form, "image"): image}
    return read({"format": form, "path": write_jsonl(folder / "rows.jsonl", [row])}, **options)


@pytest.mark.parametrize("form", ROWS)
def test_every_format_refuses_images_outside_its_root(tmp_path, form):
    """Up and out of the folder, also by a detour; an absolute path; and Qwen's file:// address."""
    for image in (
        "../secret.png",
        "a/../../secret.png",
        str(tmp_path / "secret.png"),
        str(tmp_path / "set2" / "a.png"),
    ):
        with pytest.raises(RowError, match=rf"row 'bad': image {image} is outside {tmp_path}/set; copy or link it"):
            source(tmp_path, form, image)[0]
        allowed = source(tmp_path, form, image, allow_outside_root=True)[0].images
        assert allowed == (image if image.startswith("/") else f"{tmp_path}/set/{image}",)
    assert source(tmp_path, form, "a/../b.png")[0].images == (f"{tmp_path}/set/b.png",)
    assert source(tmp_path, form, f"{tmp_path}/set/b.png")[0].images == (f"{tmp_path}/set/b.png",)
    if form == "verl":
        with pytest.raises(RowError, match="is outside"):
            source(tmp_path, form, {"image": f"file://{tmp_path}/secret.png"})[0]


def test_links_are_followed_and_a_path_is_what_it_says(tmp_path, monkeypatch):
    """A link in the folder is the user's; ".." behind it is not taken from where it leads."""
    (tmp_path / "disk" / "images").mkdir(parents=True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "disk" / "images")
    root = ImageRoot(str(tmp_path / "set"))
    assert root.path("images/a.png") == f"{tmp_path}/set/images/a.png"
    assert root.path("images/../a.png") == f"{tmp_path}/set/a.png"
    linked = ImageRoot(str(tmp_path / "set" / "images"))  # named by its link, while the rows have the real folder
    assert linked.path(str(tmp_path / "disk" / "images" / "a.png")) == f"{tmp_path}/disk/images/a.png"
    assert linked.path(str(tmp_path / "disk" / "a.png")) is None
    monkeypatch.chdir(tmp_path)
    for folder in ("set", "./set/", "."):  # relative to the working folder
        assert ImageRoot(folder).path(f"{tmp_path}/set/a.png") == f"{tmp_path}/set/a.png"
        assert ImageRoot(folder).path("/etc/passwd") is None and ImageRoot(folder).path("../x") is None


def test_the_config_allows_it_for_all_sources(tmp_path):
    """Also through mixtures; and an index of the rows made without it is another one."""
    for name in ("images", "set"):
        (tmp_path / name).mkdir()
    row = {**llava_row(0), "image": "../images/0.png"}
    write_jsonl(tmp_path / "set" / "rows.jsonl", [row])
    (tmp_path / "set" / "mix.yaml").write_text("datasets:\n  - json_path: rows.jsonl\n")
    entries = (
        {"format": "llava", "path": str(tmp_path / "set" / "rows.jsonl")},
        {"format": "llava_yaml", "path": str(tmp_path / "set" / "mix.yaml")},
    )
    strict, free = (
        open_source(config.load("", {"data.sources": entries, "data.allow_outside_root": allow}))
        for allow in (False, True)
    )
    assert strict.fingerprint != free.fingerprint
    for index in range(2):
        with pytest.raises(RowError, match="is outside"):
            strict[index]
        assert free[index].images == (f"{tmp_path}/set/../images/0.png",)


def test_rows_of_python_are_not_restricted():
    row = {"prompt": "q", "completion": "a", "image": "/anywhere/a.png"}
    assert read({"format": "trl", "path": [row]})[0].images == ("/anywhere/a.png",)


@pytest.mark.parametrize("key", ["root", "annotation"])
def test_mmpr_meta_may_not_lead_out(tmp_path, key):
    folder = tmp_path / "MMPR"
    folder.mkdir()
    (tmp_path / "away").mkdir()
    write_jsonl(tmp_path / "away" / "a.jsonl", [preference_row(0)])
    write_jsonl(folder / "a.jsonl", [preference_row(0)])
    away = str(tmp_path / "away") if key == "root" else str(tmp_path / "away" / "a.jsonl")
    entry = {"root": "images", "annotation": "a.jsonl", key: away}
    (folder / "meta.json").write_text(json.dumps({"s": entry}))
    where = {"format": "mmpr", "path": str(folder / "meta.json"), "root": str(folder)}
    with pytest.raises(UserError, match=f"'{away}' of subset 's' is outside {folder}; set 'root'"):
        read(where)
    image = read(where, allow_outside_root=True)[0].images[0]
    assert image == (f"{tmp_path}/away/0.png" if key == "root" else f"{folder}/images/0.png")


def test_a_data_set_of_the_library_names_files_like_any_other(tmp_path, monkeypatch):
    """`datasets` would open them itself, wherever they are, and also from the network."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra test)")
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")  # the library looks for the files when it saves
    for name in ("a.png", "set/a.png"):
        (tmp_path / name).write_bytes(b"png")
    rows = [{"id": str(i), "prompt": "q", "completion": "a", "images": [image]}
            for i, image in enumerate([f"{tmp_path}/a.png", "a.png"])]  # fmt: skip
    text = dict.fromkeys(("id", "prompt", "completion"), datasets.Value("string"))
    features = datasets.Features({**text, "images": datasets.Sequence(datasets.Image())})
    monkeypatch.setattr(datasets.Image, "embed_storage", lambda self, storage, *_, **__: storage)
    data = datasets.Dataset.from_list(rows).cast(features)
    data.select([1, 0]).save_to_disk(str(tmp_path / "set" / "saved"))
    found = read({"format": "trl", "path": str(tmp_path / "set" / "saved")})
    assert found[0].id == "1" and found[0].images == (f"{tmp_path}/set/a.png",)
    with pytest.raises(RowError, match=f"image {tmp_path}/a.png is outside {tmp_path}/set"):
        found[1]
