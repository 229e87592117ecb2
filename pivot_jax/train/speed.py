"""Throughput of a run, in the units that other trainers use."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pivot_jax.parallel.chips import peak_flops
from pivot_jax.train.model import step_flops
from pivot_jax.train.setup import Setup


class Speed:
    """Counts work and time between log lines. ``perf/*`` of the first line includes compilation."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._start()

    def _start(self) -> None:
        self._since = time.perf_counter()
        self._steps, self._tokens, self._images, self._waited = 0, 0, 0, 0.0
        self._flops = self._traced = 0.0

    def note(self, batch: Any, waited: float, traced: float) -> int:
        """Adds one step, scaled from the rows of this process to those of all; returns its tokens without padding.

        Args:
          batch: this process's rows, on the host.
          waited: seconds until the batch was there.
          traced: FLOPs of the program on all devices, recomputation and padding included.
        """
        processes = jax.process_count()
        rows = int(np.sum(np.asarray(batch.row_index) >= 0))
        ids = batch.segments if hasattr(batch, "segments") else batch.tokens
        tokens = int(np.sum(np.asarray(ids) > 0)) * processes
        images = rows * (self._setup.config.data.images_per_row if hasattr(batch, "image_slots") else 1) * processes
        targets = float(np.sum(batch.weights)) / max(rows, 1)
        shape = (tokens / max(rows * processes, 1), targets)
        config, model = self._setup.config, self._setup.model
        trained = (self._setup.trained_parts, self._setup.adapted_parts)
        positions, slots = getattr(batch, "patch_positions", None), max(rows * config.data.images_per_row, 1)
        patches = 0.0 if positions is None else float(np.sum(np.asarray(positions)[..., 0] >= 0)) / slots
        flops = rows * processes * step_flops(config, model.module, shape, *trained, patches)
        self._steps, self._waited, self._traced = self._steps + 1, self._waited + waited, self._traced + traced
        self._tokens, self._images, self._flops = self._tokens + tokens, self._images + images, self._flops + flops
        return tokens

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time within the block does not count."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started

    def line(self) -> dict[str, float]:
        """``perf/*`` since the last call."""
        seconds = time.perf_counter() - self._since
        steps = max(1, self._steps)
        line = {
            "perf/tokens_per_s": self._tokens / seconds,
            "perf/images_per_s": self._images / seconds,
            "perf/step_time_s": seconds / steps,
            "perf/data_wait_s": self._waited / steps,
            "perf/tflops_per_s": self._flops / seconds / 1e12,
            "perf/peak_mem_gib": peak_memory_gib(),
        }
        peak = peak_flops(jax.devices()[0].device_kind)
        if peak:
            line["perf/mfu"] = self._flops / seconds / (peak * jax.device_count())
            line["perf/hfu"] = self._traced / seconds / (peak * jax.device_count())
        self._start()
        return line


def peak_memory_gib() -> float:
    """Peak memory so far: of the fullest local device, or of this process on a CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    used = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    if used:
        return max(used) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
