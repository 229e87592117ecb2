"""MAYE's quirks as switches of a run: positions in training, and all of them together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.branches import as_text, group_row
from pivot_jax.errors import UserError
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.rl.run import run
from tests.tiny.kills import trace
from tests.train.conftest import QWEN

PARITY = Path(__file__).resolve().parents[2] / "configs" / "maye" / "parity_common.py"
# The dossier's mrope golden row: text, an image of 2 x 2 tokens, text.
T, H, W = (0, 1, 2, 3, 3, 3, 3, 5, 6), (0, 1, 2, 3, 3, 4, 4, 5, 6), (0, 1, 2, 3, 4, 3, 4, 5, 6)


def test_positions_of_a_text_count_on_in_every_response():
    none = np.zeros(0, np.int32)
    prompt = EncodedRow(
        "row", np.arange(9, dtype=np.int32), np.full(9, -1, np.int32), np.asarray([T, H, W], np.int32).T,
        np.zeros(9, np.int32), none, none, none,
    )  # fmt: skip
    row = group_row(prompt, [[1, 2, 3], [4, 5]])
    assert row.positions[9:].tolist() == [[i] * 3 for i in (7, 8, 9, 7, 8)]  # M-RoPE continues after the largest
    flat = as_text(row)
    assert flat.positions.tolist() == [[i] * 3 for i in (*range(9), 9, 10, 11, 9, 10)]
    np.testing.assert_array_equal(flat.tokens, row.tokens)


@pytest.mark.parametrize("text_positions", [False, True])
@pytest.mark.heavy
def test_log_probs_are_the_samplers_but_with_mayes_positions(rl_config, tmp_path, text_positions):
    """The dossier's test I.33, which MAYE fails by construction."""
    config = rl_config(rl__importance="token_truncate", rl__text_positions=text_positions, train__steps=1, **QWEN)
    run(config, tmp_path / "run")
    gap = trace(tmp_path / "run")[0]["sampling/sampling_logp_difference/max"]
    assert gap > 1e-2 if text_positions else gap < 1e-4


def test_without_mrope_there_is_nothing_to_switch(rl_config, tmp_path):
    with pytest.raises(UserError, match=r"rl\.text_positions: True, but the decoder has no M-RoPE"):
        run(rl_config(rl__text_positions=True), tmp_path / "run")


def test_the_parity_config_sets_every_quirk(tmp_path):
    path = tmp_path / "run.py"
    path.write_text(
        "from pivot_jax.config import include\n"
        f"def get_config(): return include({str(PARITY)!r}, 'parity_common.py') | "
        "{'model.decoder.mrope_section': (2, 3, 3)}\n"
    )
    config = configs.load(str(path))
    algorithm = algorithm_of(config.rl)
    assert (algorithm.whitened_mean, algorithm.aggregation) == ("kept", "microbatch_token_mean")
    assert (algorithm.kl_clamp, algorithm.statistics_parts) == ("mean", 7)
    assert config.rl.text_positions and config.rl.penalty_truncated and config.rl.penalty_score == -0.1
    assert [reward["name"] for reward in config.rl.rewards] == ["maye_math", "format", "language"]
    assert config.data.batch_size // config.rl.minibatches == 7 * 4
