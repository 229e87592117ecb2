"""trackio: a run in ``TRACKIO_DIR``, or on the Space or server that its environment variables name."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from pivot_jax.train.trackers.base import PROJECT, Bundle, Facts, TextTable, pixels


class Trackio:
    """A run under a name of its own, by which a resumed run continues it.

    The library writes in a thread of its own, and reports there what it could not write.
    """

    holds = False

    def __init__(self, facts: Facts):
        import trackio

        self._library = trackio
        self._run = trackio.init(
            project=facts.project or PROJECT,
            name=facts.memory.once("name", lambda: f"{facts.name}-{uuid.uuid4().hex[:6]}"),
            config={**facts.config, "workdir": str(facts.workdir.absolute())},
            resume="allow",
            embed=False,
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def show(self, step: int, table: TextTable) -> None:
        columns, rows = table.illustrated(lambda png: self._library.Image(pixels(png)))
        self._run.log({table.name: self._library.Table(columns=list(columns), data=rows)}, step=step)

    def keep(self, bundle: Bundle) -> None:
        """The folder as its path in the artifact's metadata: a reference would list each of its files."""
        metadata = {bundle.folder.name: str(bundle.folder.absolute())} if bundle.folder is not None else {}
        artifact = self._library.Artifact(f"{bundle.name}-{self._run.name}", type="run", metadata=metadata)
        for file in bundle.files:
            artifact.add_file(file)
        self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        self._run.finish()
