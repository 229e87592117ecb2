"""Hosts, chips and devices of a topology's name, and which of a config's hardware a target takes."""

from __future__ import annotations

import pytest

from pivot_jax.launch import machines


@pytest.mark.parametrize(
    ("name", "hosts", "chips", "slices", "devices"),
    [
        ("v5e-1", 1, 1, 1, 1),
        ("v5e-8", 1, 8, 1, 8),  # one host has eight chips where they are the whole slice
        ("v5e-16", 4, 4, 1, 16),
        ("v6e-16x2", 4, 4, 2, 32),
        ("v4-8", 1, 4, 1, 4),  # both cores of a chip are one device at run time
        ("v5p-8", 1, 4, 1, 4),
        ("v5p-16", 2, 4, 1, 8),
        ("7x-8", 1, 4, 1, 8),  # and here each is one
        ("h100-7", 1, 7, 1, 7),
        ("h200-8x4", 4, 8, 1, 32),
        ("a100-4", 1, 4, 1, 4),
    ],
)
def test_hosts_and_devices(name, hosts, chips, slices, devices):
    found = machines.of(name)
    assert (found.hosts, found.chips, found.slices, found.devices) == (hosts, chips, slices, devices)


def test_a_target_takes_the_first_hardware_that_it_has():
    hardware = ("v5e-16", "h200-8", "v5p-16")
    taken = {to: machines.choose(to, "", hardware).named.text for to in ("slurm", "ssh", "gke", "tpu", "skypilot")}
    assert taken == {"slurm": "h200-8", "ssh": "h200-8", "gke": "v5e-16", "tpu": "v5e-16", "skypilot": "v5e-16"}
    assert machines.choose("gke", "h200-8x2", hardware).named.text == "h200-8x2"


def test_words():
    assert machines.of("v6e-16x2").words() == "v6e-16x2: 2 slices of 4 hosts with 4 chips"
    assert machines.of("h100-1").words() == "h100-1: 1 node with 1 GPU"
