"""Images of the prompts of an update: read once, and encoded once where the encoder is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.processor import Processor
from pivot_jax.models.mllm import MLLM
from pivot_jax.parallel.processes import Processes

ENCODER_PARTS = ("vision", "second")


class Images:
    """Preprocessed images of the prompts of one update, each read once: for the sampler and for every update step."""

    def __init__(self, processor: Processor):
        self._processor = processor
        self._read: dict[int, tuple[Any, ImageArrays]] = {}

    def read(self, images: Sequence[Any]) -> ImageArrays:
        """Arrays of a row's images, which are references. The same sequence object is read once."""
        found = self._read.get(id(images))
        if found is None:
            found = self._read[id(images)] = (images, self._processor.read_images(images))
        return found[1]

    def keep(self, rows: Iterable[Sequence[Any]]) -> None:
        """Forgets all images but those of these rows."""
        self._read = _only(self._read, rows)


class Features:
    """Encoder features of the same images, in host memory, for a run that does not train the encoder.

    All passes of a rollout and its update then read them: sampling, log-probs of policy and reference, every optimizer
    step. They are computed in chunks of one shape, so that a resumed run gets the same bits.

    Args:
      mesh: of the parameters. rows: of a chunk, over all processes, which call :meth:`attach` together.
    """

    def __init__(self, module: MLLM, processor: Processor, reader: ImageReader, mesh: Any, rows: int):
        self._module, self._processor, self._reader, self._rows = module, processor, reader, rows
        self._processes = Processes(mesh)
        self._found: dict[int, tuple[Any, np.ndarray]] = {}
        self._params: Any = None
        self._like: Any = None

    def update(self, params: Any) -> None:
        """Takes the encoder's parameters, whose values never change. A step that donates them needs new ones."""
        self._params = {name: params[name] for name in ENCODER_PARTS if name in params}

    def keep(self, rows: Iterable[Sequence[Any]]) -> None:
        """Forgets the features of all rows but these."""
        self._found = _only(self._found, rows)

    def attach(self, batch: Any, rows: Sequence[EncodedRow | None]) -> Any:
        """The batch, made of these rows of this process, with the features of its images (``batch.features``)."""
        if not batch.images.shape[1]:
            return batch
        self.encode(rows)
        like = self._row_like(batch)
        features = np.zeros((len(rows), *like.shape[1:]), like.dtype)
        for index, row in enumerate(rows):
            if row is not None and len(row.images):
                features[index] = self._found[id(row.images)][1]
        return batch.replace(features=features)

    def _row_like(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Features of one row of the batch."""
        if self._like is None:
            pixels, positions = (None if x is None else x[:1] for x in (batch.images, batch.patch_positions))
            self._like = jax.eval_shape(partial(_encode, self._module), self._params, pixels, positions)
        return self._like

    def encode(self, rows: Iterable[EncodedRow | None]) -> None:
        """Computes the features of the rows' images that are not known yet."""
        known = {id(row.images): row for row in rows if row is not None and len(row.images)}
        missing = [row for key, row in known.items() if key not in self._found]
        own = len(self._processes.own(self._rows))
        for chunk in range(self._processes.largest([-(-len(missing) // own)])[0]):
            some = missing[chunk * own : (chunk + 1) * own]
            arrays = self._processor.geometry.empty(own, self._processor.arrays_per_row)
            for index, row in enumerate(some):
                for whole, found in arrays.pairs(self._reader(row.images)):
                    whole[index, : len(found)] = found
            out = _encode(self._module, self._params, *self._processes.place(arrays))
            for row, values in zip(some, self._processes.fetch(out), strict=False):
                self._found[id(row.images)] = (row.images, values)


def _only(found: dict[int, Any], rows: Iterable[Sequence[Any]]) -> dict[int, Any]:
    """The entries of these rows' images. Each holds its images, so that no other object takes their id."""
    kept = {id(images) for images in rows}
    return {key: value for key, value in found.items() if key in kept}


@partial(jax.jit, static_argnums=0)
def _encode(module: MLLM, params: Any, pixels: Any, positions: Any) -> Any:
    return module.apply({"params": params}, pixels, positions, method="encode_images")
