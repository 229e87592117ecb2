"""Data sets of the hub: folders of Parquet files with configurations and splits, large files, and names."""

from __future__ import annotations

import logging

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet

from pivot_jax.data.sources import tables
from pivot_jax.data.sources.rows import open_rows
from pivot_jax.errors import UserError


def parquet(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def named(folder, *names):
    for name in names:
        parquet(folder / f"{name}.parquet", [{"file": name}])
    return folder


def files(rows):
    return [row["file"] for row in rows]


def test_configurations_are_told_apart(tmp_path):
    """GQA: questions and images are two configurations with the same split."""
    parquet(tmp_path / "testdev_images/testdev-00000-of-00001.parquet", [{"id": "1", "image": b"x"}])
    for i in range(2):
        parquet(tmp_path / f"testdev_instructions/testdev-0000{i}-of-00002.parquet", [{"question": f"q{i}"}])
    for rows in (open_rows(tmp_path, config="testdev_instructions"), open_rows(tmp_path / "testdev_instructions")):
        assert [row["question"] for row in rows] == ["q0", "q1"]
    rows = open_rows(tmp_path, "testdev", "testdev_images")
    assert rows[0] == {"id": "1", "image": b"x"} and rows.name == f"{tmp_path.name}/testdev_images/testdev"
    for split in ("", "testdev"):
        words = f"holds the configurations testdev_images, testdev_instructions; name one, such as {tmp_path}/testdev_i"
        with pytest.raises(UserError, match=words):
            open_rows(tmp_path, split)
    with pytest.raises(UserError, match=r"no configuration 'testdev_image' .*did you mean 'testdev_images'"):
        open_rows(tmp_path, config="testdev_image")
    with pytest.raises(UserError, match=r"testdev_images: no split 'test' \(there are: testdev\)"):
        open_rows(tmp_path, "test", "testdev_images")


def test_the_default_configuration_and_splits_of_one(tmp_path):
    """POPE: data/test-… beside Full/adversarial-…; converted data sets: default/test/0000.parquet."""
    named(tmp_path / "pope", "data/test-0-of-1", "Full/adversarial-0-of-1", "Full/random-0-of-1")
    assert files(open_rows(tmp_path / "pope")) == ["data/test-0-of-1"]
    assert files(open_rows(tmp_path / "pope", "random")) == ["Full/random-0-of-1"]
    with pytest.raises(UserError, match="Full: holds the splits adversarial, random"):
        open_rows(tmp_path / "pope", config="Full")
    named(tmp_path / "converted", "default/test/0000", "default/test/0001", "2D/test/0000")
    assert files(open_rows(tmp_path / "converted")) == ["default/test/0000", "default/test/0001"]
    assert files(open_rows(tmp_path / "converted", config="2D")) == ["2D/test/0000"]
    with pytest.raises(UserError, match=r"no split 'val' \(there are: test\)"):
        open_rows(tmp_path / "converted", "val")


def test_configurations_of_the_card(tmp_path):
    """CV-Bench: two files, which are two configurations alone and the default one together."""
    named(tmp_path, "test_2d", "test_3d")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: 'test*.parquet'\n"
        "- config_name: 2D\n  data_files:\n  - split: test\n    path:\n    - test_2d.parquet\n"
        "- config_name: other\n  data_files: test_3d.parquet\n"
        "- config_name: gone\n  data_files: [gone.parquet, ../*.parquet, /etc/*.parquet]\n---\n# CV-Bench\n"
    )
    assert files(open_rows(tmp_path)) == ["test_2d", "test_3d"]
    assert files(open_rows(tmp_path, "test", "2D")) == ["test_2d"]
    assert files(open_rows(tmp_path, "train", "other")) == ["test_3d"]
    with pytest.raises(UserError, match=r"no configuration 'gone' \(there are: 2D, default, other\)"):
        open_rows(tmp_path, config="gone")
    for card in ("# no head\n", "---\n: [\n---\n", "---\nconfigs: 3\n---\n"):
        (tmp_path / "README.md").write_text(card)
        assert files(open_rows(tmp_path, "test_2d")) == ["test_2d"]


def test_configurations_of_what_has_none(tmp_path):
    datasets.Dataset.from_list([{"a": 1}]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="there is no configuration 'x'"):
        open_rows(tmp_path / "saved", config="x")
    file = parquet(tmp_path / "a.parquet", [{"a": 1}])
    with pytest.raises(UserError, match="configuration 'x' of something that is not a folder"):
        open_rows(file, config="x")


def test_large_files_are_decoded_by_row_group(tmp_path, monkeypatch):
    for i in range(2):
        rows = [{"id": 10 * i + j, "image": {"bytes": bytes([j]), "path": None}} for j in range(10)]
        parquet(tmp_path / f"test-0000{i}-of-00002.parquet", rows, row_group_size=3)
    whole = open_rows(tmp_path)
    monkeypatch.setattr(tables, "WHOLE", 100)
    large = open_rows(tmp_path)
    assert isinstance(whole, tables.TableRows) and isinstance(large, tables.RowGroups)
    assert len(large) == 20 and [*large] == [*whole]
    for index in (19, 0, 7, 12, 3, 19):
        assert large[index] == whole[index]
    assert len(large._kept) == tables.KEPT
    assert large.fingerprint == whole.fingerprint and large.location(3) == whole.location(3)
    with pytest.raises(IndexError):
        large[20]
    parquet(tmp_path / "test-00001-of-00002.parquet", [{"id": "text"}])
    with pytest.raises(UserError, match="different columns"):
        open_rows(tmp_path)
    parquet(tmp_path / "test-00001-of-00002.parquet", [{"id": 10}])
    assert open_rows(tmp_path)[10] == {"id": 10, "image": None}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The library's cache as downloads of owner/toy with two configurations leave it; the hub itself is off."""
    data = datasets.Dataset.from_list([{"question": f"q{i}", "image": b"x"} for i in range(3)])
    data.to_parquet(str(tmp_path / "x.parquet"))
    file = [str(tmp_path / "x.parquet")]
    datasets.disable_progress_bars()
    for name, splits in (("one", ("test",)), ("two", ("val", "test"))):
        builder = Parquet(
            cache_dir=str(tmp_path), dataset_name="toy", config_name=name, hash="0" * 40,
            data_files=dict.fromkeys(splits, file),
        )  # fmt: skip
        builder.download_and_prepare()
        (tmp_path / "toy" / builder.config_id).rename(tmp_path / "toy" / name)
    (tmp_path / "toy").rename(tmp_path / "owner___toy")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    logging.getLogger("datasets").setLevel(logging.ERROR)


@pytest.mark.parametrize(
    ("name", "more"),
    [("hf:owner/toy/one", {}), ("hf:owner/toy/two@val", {}), ("hf:owner/toy", {"split": "test", "config": "two"})],
)
def test_data_sets_by_name(cached, name, more):
    rows = open_rows(name, **more)
    assert len(rows) == 3 and rows[2] == {"question": "q2", "image": b"x"}
    assert "owner/toy" in rows.location(2) and "toy-" in rows.fingerprint


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        (
            "hf:owner/toy/two",
            {},
            "hf:owner/toy/two: holds the splits test, val; name one, such as hf:owner/toy/two@test",
        ),
        ("hf:owner/toy/three", {}, r"ValueError: .* Available configs in the cache: \['one', 'two'\]"),
        ("hf:owner/toy/one@train", {}, r"cannot load it \(ValueError: Unknown split"),
        ("hf:owner/gone", {}, "run `hf download --repo-type dataset owner/gone --local-dir FOLDER` where there is one"),
        ("hf:toy", {}, "hf:toy: not the name of a data set; write hf:OWNER/NAME"),
        ("hf:owner/toy/one", {"config": "two"}, "named twice"),
    ],
)
def test_data_sets_that_cannot_be_loaded(cached, name, more, words):
    with pytest.raises(UserError, match=words) as caught:
        open_rows(name, **more)
    assert "\n" not in str(caught.value)


def test_real_parquet(shared_data):
    folder = shared_data / "benchmark_samples"
    if not folder.is_dir():
        pytest.skip(f"no rows of benchmarks in {folder}")
    pope = open_rows(folder / "pope" / "pope_sample.parquet")
    assert len(pope) == 10 and pope[0]["question"] == "Is there a truck in the image?"
    assert pope[0]["image"]["bytes"][:3] == b"\xff\xd8\xff"
    assert open_rows(folder / "ai2d")[0]["options"] == ["Polyp forming", "Zygote", "Branching", "Planula"]
