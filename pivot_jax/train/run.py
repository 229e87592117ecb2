"""One training run: from a config and a workdir to a trained checkpoint. Run again, it resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.data.processing.tokenizer import save_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.models import lora
from pivot_jax.optim import partition
from pivot_jax.parallel import runtime
from pivot_jax.parallel.hosts import is_first
from pivot_jax.progress import progress
from pivot_jax.train import checkpoint, digests, loop, reference
from pivot_jax.train.checkpoints import Checkpoints
from pivot_jax.train.evaluation import training_hooks
from pivot_jax.train.lock import locked
from pivot_jax.train.session import Hook, last_metrics, postponed
from pivot_jax.train.setup import Setup, build_setup, starting_params
from pivot_jax.train.source import TOKENIZER
from pivot_jax.train.trackers.table import check_installed
from pivot_jax.words import counted

RESULT = "result.json"  # in the workdir of a finished run
# How the names begin of what a workdir may have before its config.json is complete.
BEFORE_CONFIG = ("skipped", "index", "log", "config.", ".")
RESTORE = (
    "restore it from a backup, or write it again with the command that started the run: "
    "pivot-jax train … --print-config > config.json"
)
Loop = Callable[..., tuple[Any, dict[str, float]]]  # as loop.train


@dataclass(frozen=True)
class Result:
    """A finished run."""

    workdir: Path
    step: int
    metrics: dict[str, float]  # of the last log line, and of the evaluation after the last step
    seconds: float  # of this call, compilation included; 0 if the run was finished before


def run(config: Any, workdir: Path | str, hooks: Sequence[Hook] = (), steps: Loop = loop.train) -> Result:
    """Trains ``config`` in ``workdir``; resumes from its newest checkpoint, returns at once if it is finished.

    Writes ``config.json, trained_parameters.json, metrics.jsonl, skipped.jsonl, tokenizer/, checkpoints/``, what its
    trackers write (``tensorboard/, trackers/``) and, at the end, ``result.json``. The lock on ``.lock`` keeps a second
    run out.

    Args:
      hooks: evaluations every ``eval.every`` steps and after the last one, besides those of ``eval.benchmarks``.
      steps: the loop; online RL has its own.

    Raises:
      UserError: bad config, data or checkpoint; a workdir of another config, or one that a run is training in; from a
        hook.
      Interrupted: stopped by a signal, state saved (``train.signals``).
    """
    check_loaded(config)
    workdir = Path(workdir)
    _check_ours(workdir)  # before the lock, which is a file in it
    with locked(workdir):
        return _run(config, workdir, hooks, steps)


def check_loaded(config: Any) -> None:
    """Raises UserError for the path of a config in place of the config."""
    if isinstance(config, str):
        raise UserError(f"config: '{config}' is a path; write pj.config({config!r})")


def _run(config: Any, workdir: Path, hooks: Sequence[Hook], steps: Loop) -> Result:
    check_installed(config.train.trackers)
    fresh = _check_workdir(config, workdir)
    runtime.cache_programs()
    started = time.perf_counter()
    setup = build_setup(config, workdir, check_init=fresh)
    hooks = (*hooks, *training_hooks(setup, workdir))
    if is_first():
        files.write_text(workdir / "config.json", configs.to_json(config))
        own = Path(config.tokenizer.path).resolve() == (workdir / TOKENIZER).resolve()
        if fresh and not own:  # a resumed run keeps the tokenizer that it was trained with
            save_tokenizer(setup.loader.processor.chat.tokenizer, workdir / TOKENIZER)
    with jax.set_mesh(setup.mesh):
        state, saved, starting = _state(setup, workdir)
        frozen_before = digests.of_tree(state.frozen)
        base = state.frozen if setup.keeps_base else starting
        ref_params = _reference(setup, base, workdir, resumed=int(state.step) > 0)
    if is_first():
        _announce(setup, workdir)
    resumed, total = int(state.step), setup.loader.total_steps
    finished = resumed >= total and not (saved and postponed(saved) and not (workdir / RESULT).exists())
    if is_first() and resumed:
        status = "finished, nothing to do" if finished else "resuming"
        print(f"{config.name}: {workdir} has step {resumed} of {total}; {status}")
    if finished:
        metrics = last_metrics(saved) if saved else {}
    else:
        state, metrics = steps(setup, state, saved, ref_params, workdir, hooks)
    if digests.of_tree(state.frozen) != frozen_before:
        raise AssertionError("a frozen parameter moved during training: this is a bug")
    seconds = 0.0 if finished else time.perf_counter() - started
    result = Result(workdir, int(state.step), metrics, seconds)
    if is_first() and seconds:
        bad = setup.loader.skipped.count
        record = {"step": result.step, "metrics": metrics, "seconds": seconds, "resumed_from": resumed, "bad_rows": bad}
        files.write_text(workdir / RESULT, json.dumps(record, indent=1))
        if bad:
            rows = f"{counted(bad, 'bad row')} {'was' if bad == 1 else 'were'} skipped"
            print(f"{config.name}: {rows}; {workdir / 'skipped.jsonl'} says which and why")
    return result


def _check_workdir(config: Any, workdir: Path) -> bool:
    """Whether ``workdir`` has no checkpoint yet, so that nothing can be lost.

    Raises:
      UserError: it has one of another config.
    """
    path = workdir / "config.json"
    fresh = not (path.exists() and checkpoint.complete(workdir))
    if not fresh:
        old = configs.from_file(path)
        if configs.fingerprint(old) != configs.fingerprint(config):
            changed = "; ".join(configs.differences(old, config)[:6])
            raise UserError(
                f"{workdir} belongs to another config ({changed}); to resume it, pass --config={path} or what it was "
                f"started with; else take another --workdir (from this run's weights: --config.init.=run:{workdir})"
            )
    return fresh


def _check_ours(workdir: Path) -> None:
    """Raises UserError for a folder with files that are no run's: they may be data, a model, or a checkout."""
    config = workdir / "config.json"
    names = sorted(entry.name for entry in workdir.iterdir()) if workdir.is_dir() else []
    if config.exists():
        try:
            configs.from_file(config)
        except UserError as error:  # another program's, such as that of a Hugging Face model
            if checkpoint.complete(workdir):
                raise UserError(f"{workdir}: its config.json is damaged ({error}); {RESTORE}") from None
            raise UserError(
                f"{workdir}: its config.json does not belong to a run ({error}); name a new or an empty folder"
            ) from None
        return
    if checkpoint.complete(workdir):
        raise UserError(f"{workdir} has checkpoints, but its config.json is missing; {RESTORE}")
    foreign = [name for name in names if not name.startswith(BEFORE_CONFIG)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise UserError(f"{workdir} holds files that no run wrote ({shown}); name a new or an empty folder")


def _state(setup: Setup, workdir: Path) -> tuple[Any, dict[str, Any] | None, Any]:
    """(state, the checkpoint's progress or None, starting parameters or None): restored from a checkpoint, or fresh.

    A restored run needs the starting parameters too if the reference model is made from them, unless they are the
    frozen parameters of the state.
    """
    checkpoints = Checkpoints(workdir)
    try:
        restored = checkpoints.restore_newest(setup.state_like())
    finally:
        checkpoints.close()
    if restored is not None:
        again = setup.objective.reference is not None and not setup.keeps_base
        return (*restored, starting_params(setup) if again else None)
    starting = starting_params(setup)
    return setup.fresh_state(starting), None, starting


def _reference(setup: Setup, starting: Any, workdir: Path, resumed: bool) -> Any:
    """Reference parameters for a step, or None: there is no reference, or stored log-probs go into the loader instead.

    With LoRA the reference is the model without its adapters. If nothing else is trained, it is taken from the state.
    Online RL computes its log-probs of each rollout, so it needs the parameters too.
    """
    if setup.objective.reference is None:
        return None
    if setup.objective.reference == "step" or setup.objective.kind == "policy":
        return None if setup.keeps_base else reference.copied(starting)
    starting = lora.base(starting)

    def show(batches: Any, count: int, label: str) -> Any:
        with progress(label, count, show=is_first()) as advance:
            for batch in batches:
                yield batch
                advance(1)

    logps = reference.stored(setup.model.module, starting, setup.loader, setup.mesh, workdir, show, resumed)
    setup.loader.set_ref_logps(logps)
    return None


def _announce(setup: Setup, workdir: Path) -> None:
    """Prints and writes the trained parameters, with their counts and peak learning rates."""
    rows = partition.table(setup.like, setup.rates)
    files.write_text(workdir / "trained_parameters.json", json.dumps(rows, indent=1))
    config, loader = setup.config, setup.loader
    unit = "prompts a rollout" if setup.objective.kind == "policy" else "rows each"
    size = f"{loader.rows} in all" if loader.rows else "without an end"
    packed = f", {loader.packing} to a sequence" if loader.packing > 1 else ""
    print(f"{config.name}: {loader.total_steps} steps, {loader.batch_size} {unit}{packed}, {size}")
    for row in rows:
        rate = row["rate"] if row["rate"] == partition.FROZEN else f"learning rate {row['rate']:g}"
        print(f"  {row['group']:<24} {row['parameters']:>14,}  {rate}")
