"""What an online RL run needs beside its setup: algorithm, rollout engine, rewards, and the shapes of an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from pivot_jax.data.loading.reader import ImageReader
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import UserError
from pivot_jax.hub import ExportOptions
from pivot_jax.kernels.token_logprobs import Distribution
from pivot_jax.models import lora
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.policy import sampled_from
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.rl.images import ENCODER_PARTS, Features, Images
from pivot_jax.rl.records import Records
from pivot_jax.rl.rewards.composition import Rewards, build_rewards
from pivot_jax.rollout.engine import Engine, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.shapes import round_up
from pivot_jax.train import hub_export
from pivot_jax.train.setup import Setup

SLOTS = 64  # responses that are decoded together, at most
TOGETHER = 4  # prompts that are read together


@dataclass(frozen=True)
class Parts:
    """Parts of an online RL run. Close it, or use it in a ``with``.

    Attributes:
      images: preprocessed, those of this rollout's prompts; ``reader`` reads them, in threads and with a time limit.
      features: of the images, where the encoder is frozen; else None.
      prompts: prompts of an update in this process.
      per_row: responses that share a row with their prompt.
      updates: optimizer steps after each rollout.
    """

    setup: Setup
    algorithm: Algorithm
    sampling: Sampling
    engine: Engine
    rewards: Rewards
    images: Images
    reader: ImageReader
    features: Features | None
    records: Records
    prompts: int
    per_row: int
    updates: int

    @property
    def first_prompt(self) -> int:
        """Number of this process's first prompt among those of a rollout."""
        return jax.process_index() * self.prompts

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine and the processes of the rewards."""
        self.engine.close()
        self.rewards.close()

    def update(self, params: Any, version: int) -> None:
        """Has the policy of now, after ``version`` optimizer steps, answer and encode from here on."""
        self.engine.update(params, version)
        if self.features is not None:
            self.features.update(params)

    def keep_images(self, rows: Sequence[Any]) -> None:
        """Forgets the images of all rows but these."""
        self.images.keep([row.images for row in rows])
        if self.features is not None:
            self.features.keep([row.images for row in rows])

    @property
    def distribution(self) -> Distribution:
        """The distribution that log-probs are of, in the sampler and in the trainer."""
        return sampled_from(self.setup.config.rl, self.sampling.banned_ids)

    @property
    def processor(self) -> Processor:
        """Of prompts."""
        return self.setup.loader.processor


def build_parts(setup: Setup, workdir: Path) -> Parts:
    """Parts of ``config.rl``; starts the reward processes.

    Raises:
      UserError: settings that do not fit the data or each other.
    """
    section, loader = setup.config.rl, setup.loader
    processes = jax.process_count()
    rewards = build_rewards(section)
    rewards.check(loader.columns())
    if section.filter_reward and section.filter_reward not in rewards.labels:
        labels = ", ".join(rewards.labels)
        rewards.close()
        raise UserError(f"rl.filter_reward: no reward {section.filter_reward!r} in rl.rewards (labels: {labels})")
    images = Images(loader.processor)
    reader = ImageReader(images.read, setup.config.data.read_timeout_s)
    features = _features(setup, reader)
    return Parts(
        setup=setup,
        algorithm=algorithm_of(section),
        sampling=sampling_of(section, loader.processor),
        engine=_engine(setup, reader, features, workdir),
        rewards=rewards,
        images=images,
        reader=reader,
        features=features,
        records=Records(workdir, jax.process_index(), processes),
        prompts=loader.batch_size // processes,
        per_row=section.responses_per_row or section.responses,
        updates=updates_per_rollout(section),
    )


def sampling_of(section: Any, processor: Processor) -> Sampling:
    """How responses are sampled in training."""
    chat = processor.chat
    return Sampling(
        max_tokens=section.max_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        top_k=section.top_k,
        min_p=section.min_p,
        stop_ids=(chat.end_id,),
        stop=tuple(section.stop),
        banned_ids=chat.banned_ids,
    )


def updates_per_rollout(section: Any) -> int:
    """Optimizer steps after each rollout."""
    return section.epochs * section.minibatches


def sampler_shape(config: Any, mesh: Any = None) -> Shape:
    """Static sizes of the embedded sampler: numbers that the mesh (None: one device) divides."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"] if mesh is not None else 1
    together = config.rl.slots or min(config.data.batch_size * config.rl.responses, SLOTS)
    return Shape(slots=round_up(together, rows), prompts=round_up(TOGETHER, rows), steps=config.rl.block)


def _features(setup: Setup, reader: ImageReader) -> Features | None:
    changing = setup.trained_parts | setup.adapted_parts
    if changing & set(ENCODER_PARTS) or not setup.loader.processor.arrays_per_row:
        return None
    chunk = sampler_shape(setup.config, setup.mesh).prompts
    return Features(setup.model.module, setup.loader.processor, reader, setup.mesh, chunk)


def _engine(setup: Setup, reader: ImageReader, features: Features | None, workdir: Path) -> Engine:
    config, processor = setup.config, setup.loader.processor
    if config.rl.engine == "vllm":
        return _vllm(config, processor, workdir)
    shape = sampler_shape(config, setup.mesh)
    mesh = setup.mesh if setup.mesh.size > 1 else None
    encode = features.attach if features else None
    return Sampler(setup.model.module, processor, shape, mesh=mesh, reader=reader, encode=encode)


def _vllm(config: Any, processor: Processor, workdir: Path) -> Engine:
    from pivot_jax.rollout.vllm import VLLM, Limits, Servers  # only runs with servers import their protocol

    section = config.rl.vllm
    options = ExportOptions(config.model.dtype, overwrite=True)

    def export(params: Any, folder: Path) -> None:
        hub_export.write(config, lora.merged(params), processor.chat.tokenizer, folder, options)

    folder = Path(section.folder or workdir / "vllm")
    limits = Limits(section.patience_s, section.request_s)
    return VLLM(Servers(tuple(section.urls), folder, limits, checksums=section.checksums), processor, export)
