"""Everything a run needs, built from its config: data, model, optimizer, compiled step, shardings of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from pivot_jax import rules
from pivot_jax.data import sources
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.loading.prompts import build_prompts
from pivot_jax.errors import UserError
from pivot_jax.models import lora, stacking, value_head
from pivot_jax.objectives.base import Objective
from pivot_jax.objectives.table import batch_kind, build_objective
from pivot_jax.optim import adamw, partition, schedule
from pivot_jax.optim.update import TrainState, build_step, init_state
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import check_rows, make_mesh, param_shardings, replicated
from pivot_jax.train import checkpoint, compatibility
from pivot_jax.train.initialization import OPTIONAL, initial_params, longest, read_adapter
from pivot_jax.train.initialization import check as check_sources
from pivot_jax.train.model import Model, build_model, processor_of, root_key, row_kind, without
from pivot_jax.train.source import config_tokenizer, run_tokenizer
from pivot_jax.words import counted


@dataclass(frozen=True)
class Setup:
    """Parts of a run; nothing here changes while it trains."""

    config: Any
    mesh: Mesh
    loader: Any  # Loader, or PromptLoader of online RL
    model: Model
    rates: dict[str, float | str]  # parameter path → peak learning rate or "frozen"
    ranks: lora.Ranks  # kernel → rank of its LoRA adapter; empty without LoRA
    objective: Objective
    optimizer: Any
    curve: Callable[[Any], Any]  # step → learning-rate multiplier
    shardings: Any  # tree of the parameters, stacked
    like: Any  # parameters as ShapeDtypeStruct, stacked as in checkpoints and imports

    @property
    def trained_parts(self) -> set[str]:
        """Parts of the model with parameters of their own that are trained."""
        return {path.split("/")[0] for path in self._trained if not lora.is_adapter(path)}

    @property
    def adapted_parts(self) -> set[str]:
        """Parts of the model with a LoRA adapter."""
        return {path.split("/")[0] for path in self._trained if lora.is_adapter(path)}

    @property
    def _trained(self) -> list[str]:
        return [path for path, rate in self.rates.items() if rate != partition.FROZEN]

    @property
    def keeps_base(self) -> bool:
        """Whether the frozen parameters are the whole model that training started from.

        Then only adapters are trained, and perhaps a value head, which no reference model has.
        """
        return bool(self.ranks) and not self.trained_parts - {value_head.PART}

    @property
    def highest_rate(self) -> float:
        """The largest peak learning rate; logged as ``learning_rate`` times the schedule."""
        return max(float(rate) for rate in self.rates.values() if rate != partition.FROZEN)

    def per_layer(self, params: Any) -> dict[str, Any]:
        """Parameters in the layout of the train state: a leaf per layer where layers are not scanned."""
        return stacking.per_layer(params, self.model.module.unscanned)

    @property
    def state_params(self) -> dict[str, Any]:
        """Parameters of the train state, in its layout, as ShapeDtypeStruct with shardings."""
        like = self.per_layer(self.like)
        return jax.tree.map(_with_sharding, like, param_shardings(like, self.mesh))

    def fresh_state(self, params: dict[str, Any]) -> TrainState:
        """State of step 0, on its devices; ``params`` in either layout."""
        trained, frozen = partition.split(self.per_layer(params), self.rates)
        shardings = self.state_shardings()
        opt_state = jax.jit(self.optimizer.init, out_shardings=shardings.opt_state)(trained)
        return jax.device_put(init_state(trained, frozen, opt_state, self.objective), shardings)

    def state_shardings(self) -> TrainState:
        like, frozen_like = partition.split(self.state_params, self.rates)
        trained, frozen = (jax.tree.map(lambda x: x.sharding, tree) for tree in (like, frozen_like))
        whole = replicated(self.mesh)
        return TrainState(
            step=whole,
            trained=trained,
            frozen=frozen,
            opt_state=adamw.state_shardings(self.optimizer, like, trained, self.mesh),
            memory=jax.tree.map(lambda _: whole, self.objective.memory),
            healthy=whole,
        )

    def state_like(self) -> TrainState:
        """The state as ShapeDtypeStruct with shardings, for restoring and ahead-of-time compilation."""
        trained, frozen = partition.split(self.state_params, self.rates)
        shapes = jax.eval_shape(lambda t, f: init_state(t, f, self.optimizer.init(t), self.objective), trained, frozen)
        return jax.tree.map(_with_sharding, shapes, self.state_shardings())

    def compiled_step(self) -> Any:
        """Jitted step with the state donated; the first call of each batch shape compiles."""
        config = self.config
        step = build_step(
            self.objective,
            self.optimizer,
            clip=config.optimizer.clip,
            accumulate=config.train.accumulate,
            keeps_base=self.keeps_base,
            master_dtype=config.optimizer.master_dtype,
        )
        whole = replicated(self.mesh)
        return jax.jit(step, donate_argnums=0, out_shardings=(self.state_shardings(), whole))


def _with_sharding(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def build_setup(config: Any, workdir: Path | None, devices: Any = None, *, check_init: bool = False) -> Setup:
    """All parts of a run; reads and checks the data, allocates no parameters.

    Args:
      check_init: check ``config.init`` against the headers of its weight sources before the data are read. False for
        a resumed run: the checkpoint in ``workdir`` says which parameters it has, and its tokenizer is that of the run.

    Raises:
      UserError: anything in the config that does not fit together.
    """
    for source in (*config.data.sources, *config.rl.heldout.sources):
        sources.check(source)  # a typo is found before the model is built
    mesh = make_mesh(config.parallel, devices)
    check_batch(config, mesh, jax.process_count())
    saved = None if check_init or workdir is None or not checkpoint.complete(workdir) else workdir
    words = config.tokenizer
    tokenizer = run_tokenizer(saved) if saved else config_tokenizer(words)
    model = build_model(config, len(tokenizer))
    if check_init or saved:
        model = as_started(config, model, saved)
    processor = processor_of(config, model.module, tokenizer, row_kind(config))
    objective = build_objective(model.module, config, processor.chat.banned_ids)
    process = jax.process_index(), jax.process_count()
    samples = batch_kind(config) == "policy"  # responses are sampled while it trains
    build: Any = build_prompts if samples else build_loader
    loader = build(config, processor, process=process, workdir=workdir)
    loader.check_trainable()
    return assemble(config, mesh, loader, model, objective)


def rows_of_step(config: Any) -> int:
    """Rows of an optimizer step, over all processes: of online RL, prompts with some of their responses."""
    if batch_kind(config) != "policy":
        return config.data.batch_size
    per_row = config.rl.responses_per_row or config.rl.responses
    return config.data.batch_size // config.rl.minibatches * (config.rl.responses // per_row)


def check_batch(config: Any, mesh: Mesh | AbstractMesh, processes: int) -> None:
    """Raises UserError for a batch that micro-batches, packing, minibatches, processes or the mesh do not divide."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if shards % processes:  # a process reads its own part of the rows, so no two may hold the same ones
        raise UserError(
            f"parallel.data x parallel.fsdp is {shards}, not a multiple of the "
            f"{counted(processes, 'process', 'processes')}; set parallel.tensor to a divisor of a process's devices"
        )
    size, accumulate, packing = config.data.batch_size, config.train.accumulate, config.data.packing
    parts = {"train.accumulate": accumulate, "data.packing": packing}
    if batch_kind(config) == "policy":
        section = config.rl
        per_row = section.responses_per_row or section.responses
        if section.responses % per_row:
            raise UserError(
                f"rl.responses: {section.responses} is not a multiple of rl.responses_per_row={per_row}; change one"
            )
        if packing > 1:
            raise UserError(
                f"data.packing: {packing}, but online RL puts responses to one prompt into a row and does not pack "
                "these; set it to 1 (rl.responses_per_row says how many share a row)"
            )
        across = section.minibatches * processes
        if size % across:
            raise UserError(
                f"data.batch_size: {size} prompts are not a multiple of rl.minibatches {section.minibatches} x "
                f"{counted(processes, 'process', 'processes')} = {across}; change one of them"
            )
        size = rows_of_step(config)
        name = "data.batch_size / rl.minibatches x rl.responses / rl.responses_per_row"
    else:
        name = "data.batch_size"
    if size % (accumulate * packing):
        words = " x ".join(f"{key} {value}" for key, value in parts.items())
        raise UserError(f"{name} {size} is not a multiple of {words} = {accumulate * packing}")
    check_rows(size // packing, name if packing == 1 else f"{name} / data.packing", mesh)
    words = f"{name} / train.accumulate" + ("" if packing == 1 else " / data.packing")
    check_rows(size // packing // accumulate, words, mesh)


def as_started(config: Any, model: Model, workdir: Path | None) -> Model:
    """The model without the encoder's last layers where the starting weights lack them; random ones never replace them.

    Args:
      workdir: of a resumed run, whose checkpoint has its parameters; None: check ``config.init`` and follow it.
    """
    like = rules.flatten(jax.eval_shape(model.create, root_key(config)))
    if workdir is None:
        init = dict(config.init)
        given = check_sources(init, like)
        for line in compatibility.check(init, model.module.parts) if is_first() else ():
            print(line)
        there = set().union(*given.values()) | {path for path in like if longest(init, path) is None}
    else:
        there = set(checkpoint.saved_in_newest(workdir) or like)
    absent = {path for path in like if path.startswith(OPTIONAL) and path not in there}
    if absent and batch_kind(config) == "contrastive":
        raise UserError(f"init: the encoder's source lacks '{min(absent)}', which stage 0 trains; take a whole encoder")
    return without(model, absent) if absent else model


def assemble(config: Any, mesh: Mesh, loader: Any, model: Model, objective: Objective) -> Setup:
    """The parts that follow from model, objective and mesh; ``loader`` needs only ``total_steps``."""
    like, rates, ranks = parameters(config, model)
    return Setup(
        config=config,
        mesh=mesh,
        loader=loader,
        model=model,
        rates=rates,
        ranks=ranks,
        objective=objective,
        optimizer=adamw.build_optimizer(config.optimizer, rates, loader.total_steps),
        curve=schedule.multiplier(config.optimizer, loader.total_steps),
        shardings=param_shardings(like, mesh),
        like=like,
    )


def parameters(config: Any, model: Model) -> tuple[dict[str, Any], dict[str, float | str], lora.Ranks]:
    """A run's parameters as ShapeDtypeStruct, path → peak learning rate or "frozen", kernel → rank of its adapter."""
    like = jax.eval_shape(model.create, root_key(config))
    rates = partition.peak_rates(_rules(config, like), like)
    ranks: lora.Ranks = {}
    if config.lora.rank:
        ranks, rates = partition.lora_ranks(config.lora, like, rates)
        like = partition.merge(like, jax.eval_shape(_adapters(config, like, ranks), root_key(config)))
    return like, rates, ranks


def starting_params(setup: Setup) -> dict[str, Any]:
    """Parameters before step 0: from ``config.init``, the rest random from the seed; with LoRA also the adapters.

    They are read and created stacked, and returned in the layout of the train state.
    """
    key = jax.random.fold_in(root_key(setup.config), 0)
    params = initial_params(dict(setup.config.init), setup.model.create, key, setup.shardings)
    if noise := setup.config.train.rounding_noise:
        params = _with_noise(params, noise, jax.random.key(setup.config.train.rounding_seed), setup.shardings)
    if not setup.ranks:
        return setup.per_layer(params)
    shardings = lora.adapter(setup.shardings)
    if setup.config.lora.init:
        if setup.objective.kind == "contrastive":
            raise UserError("lora.init: a PEFT adapter needs a stage with a language model; leave it empty")
        adapters = read_adapter(setup.config.lora.init, setup.model.module.config, lora.adapter(setup.like), shardings)
        _check_scales(setup, adapters)
    else:
        create = _adapters(setup.config, setup.like, setup.ranks)
        adapters = jax.jit(create, out_shardings=shardings)(jax.random.fold_in(key, 1))
    return setup.per_layer(partition.merge(params, adapters))


def _with_noise(params: Any, deviation: float, key: Any, shardings: Any) -> Any:
    """Parameters times ``1 + deviation * N(0, 1)``."""

    def noisy(params: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        moved = [
            x * (1 + deviation * jax.random.normal(k, x.shape, x.dtype)) for x, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(tree, moved)

    return jax.jit(noisy, out_shardings=shardings, donate_argnums=0)(params)


def _adapters(config: Any, like: Any, ranks: lora.Ranks) -> Callable[[Any], Any]:
    """Key → fresh adapters."""
    kernels = {path: leaf.shape for path, leaf in rules.flatten(like).items()}
    return lambda key: lora.create(key, kernels, ranks, config.lora.alpha, config.lora.rslora)


def _check_scales(setup: Setup, adapters: Any) -> None:
    section, flat = setup.config.lora, rules.flatten(adapters)
    for path, rank in setup.ranks.items():
        there, wanted = flat[lora.beside(path, lora.SCALE)], lora.scale(section.alpha, rank, section.rslora)
        if not np.allclose(there, wanted, rtol=1e-6):
            raise UserError(
                f"lora.init: {section.init} scales '{path}' by {float(np.ravel(there)[0]):g}, lora.alpha and rank say "
                f"{wanted:g}; set lora.alpha={float(np.ravel(there)[0]) * rank:g} and lora.rslora=false"
            )


def _rules(config: Any, like: Any) -> rules.Rules:
    """The config's rules; in an MLLM, what no stage computes is frozen first (if the encoder has such)."""
    given = [tuple(rule) for rule in config.optimizer.rules]
    used = batch_kind(config) == "contrastive" or "final" not in like["vision"]
    return given if used else [partition.UNUSED_BY_MLLM, *given]
