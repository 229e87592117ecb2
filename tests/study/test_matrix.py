"""Reading what a study declares."""

from __future__ import annotations

import pytest

from pivot_jax.errors import UserError
from pivot_jax.study import matrix
from tests.study import studies


def test_cells_are_all_combinations_of_levels_with_seeds_innermost(tmp_path):
    study = matrix.read(studies.write(tmp_path, factors={"size": ("small", "large")}))
    cells = list(study.cells())
    assert len(cells) == 2 * 3 * 2
    assert cells[0] == {"size": "small", "arm": "stage1", "seed": "0"}
    assert cells[1] == {"size": "small", "arm": "stage1", "seed": "1"}


def test_tables_choose_cells_and_share_them(tmp_path):
    tables = {"one": {"size": ("small",)}, "two": {"arm": ("sft", "dpo")}}
    study = matrix.read(studies.write(tmp_path, factors={"size": ("small", "large")}, tables=tables))
    cells = list(study.cells())
    assert len(cells) == (3 + 2) * 2  # of "two", the small ones are in "one" already
    assert len({tuple(cell.items()) for cell in cells}) == len(cells)


def test_a_stage_is_left_out_where_no_table_of_the_cell_needs_it(tmp_path):
    tables = {"own": {"size": ("small", "large"), "without": ("stage3",)}, "new": {"size": ("large",)}}
    study = matrix.read(studies.write(tmp_path, factors={"size": ("small", "large", "huge")}, tables=tables))
    levels = {"arm": "sft", "seed": "0"}
    assert not study.applies("stage3", levels | {"size": "small"}) and study.applies("sft", levels | {"size": "small"})
    assert study.applies("stage3", levels | {"size": "large"})


def test_levels_set_keys_of_the_stages_that_they_name(tmp_path):
    factors = {"rate": {"low": {"sft|dpo": {"optimizer.clip_norm": 0.5}}, "high": {}}}
    study = matrix.read(studies.write(tmp_path, factors=factors))
    levels = {"rate": "low", "arm": "sft", "seed": "1"}
    assert study.settings("sft", levels) == {"optimizer.clip_norm": 0.5, "seed": 1}
    assert study.settings("stage1", levels) == {"seed": 1}
    assert study.settings("sft", levels | {"rate": "high"}) == {"seed": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "unknown key 'seed'; did you mean 'seeds'"),
        ({"stages": studies.stages(sft={"confg": "x"})}, "stages.sft: unknown key 'confg'; did you mean 'config'"),
        ({"stages": studies.stages(sft={"measures": ("answer",)})}, "stages.sft: 'answer' is not declared"),
        ({"stages": studies.stages(sft={"init": {"": "run:{stage2}"}})}, "stages.sft: 'stage2' is not declared"),
        ({"stages": studies.stages(stage3={"only": {"arm": ("dop",)}})}, "'dop' is not declared; did you mean 'dpo'"),
        ({"stages": studies.stages(stage3={"only": {"seed": ("2",)}})}, r"only: seed: '2' is not declared .*0, 1"),
        ({"arms": {"sft": ("sfft", "SFT")}}, "arms.sft: 'sfft' is not declared"),
        ({"arms": {"sft": "sft"}}, "positional argument"),
        ({"baseline": "base"}, "baseline: 'base' is not declared"),
        ({"seeds": ()}, "at least one arm and one seed"),
        ({"tables": {"T": {"without": ("stage4",)}}}, "tables.T.without: 'stage4' is not declared; did you mean"),
        ({"tables": {"T": {"size": ("small",)}}}, "tables.T: 'size' is not declared"),
        ({"stages": studies.stages(sft={"sweep": ({},)})}, "'sweep' and 'chosen_by' are given together"),
    ],
)
def test_a_wrong_study_names_the_key(tmp_path, changes, message):
    spec = studies.write(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        matrix.read(spec)
    assert str(error.value).startswith(spec) and "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "study.py").write_text("def get_config():\n    return {'title': 'x', 'arms': {}, 'seeds': (0,)}\n")
    with pytest.raises(UserError, match="'stages' is missing|'baseline' is missing"):
        matrix.read(str(tmp_path / "study.py"))
