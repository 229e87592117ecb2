"""Sampling strategies and the paper's subset filters."""

from __future__ import annotations

import pytest

from pivot_jax.data.sources import read
from pivot_jax.data.sources.choose import no_think, shifted, under30
from pivot_jax.errors import UserError
from tests.data.conftest import preference_row, write_jsonl
from tests.tiny import processing


@pytest.fixture
def pairs(tmp_path):
    """1,000 preference rows."""
    path = write_jsonl(tmp_path / "pairs.jsonl", [preference_row(i) for i in range(1000)])
    return lambda **options: read({"format": "mmpr", "path": path, "image_root": str(tmp_path), **options})


def ids(source) -> list[str]:
    return [source[i].id for i in range(len(source))]


def test_smaller_subsets_are_parts_of_larger_ones(pairs):
    """The first 3 % are among the first 5 %, and so on: runs of different sizes differ in the amount only."""
    previous: list[str] = []
    for count in (30, 50, 100, 200, 400):
        chosen = ids(pairs(sampling=f"random:{count}", seed=5))
        assert len(set(chosen)) == count and chosen[: len(previous)] == previous
        previous = chosen
    assert previous == ids(pairs(sampling="random:400", seed=5))  # the seed decides, nothing else
    assert previous != ids(pairs(sampling="random:400", seed=6))


def test_both_arms_see_the_same_rows(pairs, tokenizer):
    """SFT and DPO records share id, image and prompt; SFT learns the chosen answer."""
    source, made = pairs(sampling="random:20", seed=1), processing.chat(tokenizer, image_tokens=2)
    for i in range(20):
        sft, dpo = made.encode(source[i], "sft"), made.encode(source[i], "preference")
        assert (sft.id, sft.images) == (dpo.id, dpo.images)
        chosen = dpo.branches != 2
        assert sft.tokens.tolist() == dpo.tokens[chosen].tolist()
        assert sft.positions.tolist() == dpo.positions[chosen].tolist()
        assert sft.targets.tolist() == dpo.targets[dpo.target_branches == 1].tolist()


@pytest.mark.parametrize(
    ("strategy", "want"),
    [
        ("all", range(1000)),
        ("first:3", range(3)),
        ("first:0.25%", range(3)),  # ceil(2.5)
        ("first:10%", range(100)),
        ("first:0", range(0)),
        ("first:2000", range(1000)),
        ("end:2", (998, 999)),
        ("end:0", range(0)),
        ("end:0.15%", (998, 999)),
    ],
)
def test_strategies_of_a_yaml_file_choose_rows(pairs, strategy, want):
    assert ids(pairs(sampling=strategy)) == [f"row{i}" for i in want]


def test_percent_is_rounded_up_exactly(tmp_path):
    """10 % of 1,010 rows is 101, not 102 as floating point would have it for some sizes."""
    for size, percent, want in ((1010, "10%", 101), (1001, "10%", 101), (7, "50%", 4), (1000, "29%", 290)):
        path = write_jsonl(tmp_path / f"{size}.jsonl", [preference_row(i) for i in range(size)])
        assert len(read({"format": "mmpr", "path": path, "sampling": f"first:{percent}"})) == want
        assert len(read({"format": "mmpr", "path": path, "sampling": f"random:{percent}"})) == want


@pytest.mark.parametrize("strategy", ["some:3", "first", "first:x", "first:-3", "random:", "first:3%4"])
def test_other_strategies_are_rejected(pairs, strategy):
    with pytest.raises(UserError, match="is not a sampling strategy.*first:P%"):
        pairs(sampling=strategy)


def words(count: int) -> str:
    return " ".join(["word"] * count)


@pytest.fixture
def variants(tmp_path):
    """A synthetic set with known counts: 40 short, 30 middle, 20 upper, 6 long, 4 short and tagged."""
    texts = [words(29)] * 40 + [words(30)] * 15 + [words(59)] * 15 + [words(60)] * 10 + [words(100)] * 10
    texts += [words(101)] * 6 + ["<think>hm</think> yes"] * 2 + ["<review>ok</review> no"] * 2
    rows = [preference_row(i, chosen=text) for i, text in enumerate(texts)]
    path = write_jsonl(tmp_path / "variants.jsonl", rows)
    return lambda rule, **options: read({"format": "mmpr", "path": path, "filter": rule, **options})


def test_filter_counts_are_exact(variants):
    assert len(variants("under30")) == 40 + 4  # tags are no matter for Under30
    assert len(variants("nothink")) == 40 + 15 + 15
    assert len(variants("shifted")) == 6 + 4
    assert under30(words(29)) and not under30(words(30))
    assert no_think(words(59)) and not no_think(words(60)) and not no_think("<THINK>a</THINK>")
    assert shifted(words(101)) and not shifted(words(100)) and not shifted("a <table> is no reasoning tag")


@pytest.mark.parametrize(("percent", "want"), [(0, 0), (50, 5), (80, 8), (75, 8)])
def test_shift_counts_are_exact(variants, percent, want):
    """ceil(r % of N) rows are long or tagged; ``shift_only`` draws the rest from rows that are neither."""
    source = variants(f"shift_only:{percent}:10")
    chosen = [source[i] for i in range(len(source))]
    assert len(set(ids(source))) == 10
    assert sum(shifted(example.chosen) for example in chosen) == want
    loose = variants(f"shift:{percent}:10")
    assert len(set(ids(loose))) == 10
    assert sum(shifted(loose[i].chosen) for i in range(10)) >= want


def test_shift_is_seeded_and_bounded(variants):
    assert ids(variants("shift:50:10", seed=1)) == ids(variants("shift:50:10", seed=1))
    assert ids(variants("shift:50:10", seed=1)) != ids(variants("shift:50:10", seed=2))
    with pytest.raises(UserError, match="needs 16 long or tagged rows.* has 10 and 100"):
        variants("shift:80:20")
    for rule in ("shift:120:10", "shift:50", "shift:a:b", "long"):
        with pytest.raises(UserError, match="is none of under30"):
            variants(rule)


def test_filter_comes_before_sampling(variants):
    assert len(variants("under30", sampling="first:50%")) == 22


def test_filter_leaves_unreadable_rows_to_the_loader(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [preference_row(0, chosen=words(50)), "{broken", preference_row(2)])
    source = read({"format": "mmpr", "path": path, "filter": "under30"})
    assert len(source) == 2 and source[1].id == "row2"
