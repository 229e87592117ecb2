"""MAYE's learning rates and its arithmetic of rollouts (tests F of the dossier)."""

from __future__ import annotations

import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax.data.loading.schedule import Schedule
from pivot_jax.optim.schedule import multiplier
from pivot_jax.rl.parts import updates_per_rollout

MULTIPLIERS = {
    0: 0.0, 1: 0.00208333, 240: 0.5, 480: 1.0, 1200: 0.9330127, 2400: 0.5868241, 3600: 0.1786062, 4799: 1.32e-7,
}  # fmt: skip


def test_the_learning_rate_of_4800_steps():
    curve = multiplier(pj.config("maye/mm_math5k.py").optimizer, 4800)
    for step, expected in MULTIPLIERS.items():
        assert float(curve(step)) == pytest.approx(expected, abs=1e-7), step


@pytest.mark.parametrize(("rows", "rollouts", "prompts"), [(5000, 5, 4480), (2101, 2, 1792)])
def test_rollouts_of_an_epoch_on_seven_devices(rows, rollouts, prompts):
    """Its sampler deals 715 (301) prompts to each of 7 ranks and drops what does not fill a batch of 128."""
    config = pj.config("maye/mm_math5k.py:parity")
    schedule = Schedule(np.zeros(rows, np.int32), config.data.batch_size, 0, True)
    assert (schedule.steps_per_epoch, schedule.steps_per_epoch * schedule.batch_size) == (rollouts, prompts)
    assert updates_per_rollout(config.rl) == 32
