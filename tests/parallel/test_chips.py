"""Peak FLOP/s of devices by JAX's names."""

import pytest

from pivot_jax.parallel.chips import CHIPS, peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU v4", 275e12),  # both cores of a chip; a compile-only topology has them as two devices
        ("cpu", None),
    ],
)
def test_peaks_of_devices_by_jax_name(kind, peak):
    assert peak_flops(kind) == peak


def test_every_chip_has_a_peak():
    assert all(peak_flops(chip.kind) for chip in CHIPS.values())
