"""The folder of a twin: script or YAML, starting weights and rows."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

import jinja2

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.hub import ExportOptions
from pivot_jax.models import stacking
from pivot_jax.rl.parts import updates_per_rollout
from pivot_jax.train import hub_export
from pivot_jax.train.setup import Setup, build_setup, starting_params
from pivot_jax.twin import llamafactory, rows
from pivot_jax.twin.arguments import LLAVA, QWEN_VL, arguments, check, module_rates

SCRIPT = "train.py"
LIBRARIES = ("trl", "llamafactory")


def write(config: Any, out: str | Path, to: str = "trl", *, overwrite: bool = False) -> Path:
    """Writes the twin of a training config: a folder with a script or YAML, ``model/`` and ``rows.jsonl``.

    Args:
      config: of :func:`pivot_jax.config.load`. Its weights are read or made as training does.
      to: ``trl`` or ``llamafactory``.
      overwrite: replace an earlier twin. A folder that holds anything else is never replaced.

    Returns:
      the script or YAML.

    Raises:
      UserError: a config of which the library has no twin, with all reasons; bad data or weights, as in training.
    """
    if to not in LIBRARIES:
        raise UserError(f"to: {to!r} is unknown; choose one of {', '.join(LIBRARIES)}")
    out, trainer = Path(out), None
    if to == "trl":
        trainer = check(config)
    else:
        llamafactory.check(config)
    files.check_folder(out, overwrite=overwrite)
    setup = build_setup(config, None, check_init=True)
    with files.whole_folder(out, overwrite=overwrite) as folder:
        if trainer is None:
            llamafactory.write(setup, folder)
        else:
            _write_rows(setup, folder)
            (folder / SCRIPT).write_text(script(setup, trainer))
        params, tokenizer = stacking.stacked(starting_params(setup)), setup.loader.processor.chat.tokenizer
        hub_export.write(config, params, tokenizer, folder / "model", ExportOptions(), training=trainer is not None)
    return out / (llamafactory.YAML if trainer is None else SCRIPT)


def _write_rows(setup: Setup, folder: Path) -> None:
    kind, images = setup.objective.kind, rows.Images(folder)
    updates = updates_per_rollout(setup.config.rl) if kind == "policy" else 1
    rows.write(folder, setup.loader, lambda example: rows.row(example, kind, images), updates)


def script(setup: Setup, trainer: str) -> str:
    """``train.py`` for TRL's trainer of this name."""
    source = Path(__file__).with_name("trl.py.jinja").read_text()
    template = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined).from_string(source)
    modules = QWEN_VL if setup.model.module.config.vision.traits.merges else LLAVA
    return template.render(
        name=setup.config.name,
        steps=setup.loader.total_steps,
        trainer=trainer,
        rates=repr(module_rates(setup.rates, modules)),
        end_id=setup.loader.processor.chat.end_id,
        rewards=pprint.pformat([dict(entry) for entry in setup.config.rl.rewards], sort_dicts=False),
        arguments={name: repr(value) for name, value in arguments(setup).items()},
    )
