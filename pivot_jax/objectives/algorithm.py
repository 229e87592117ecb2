"""An online RL algorithm as its parts: advantage, ratio, clip, aggregation, KL, importance correction, filter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """The parts by name, and their settings. Presets are in :mod:`pivot_jax.objectives.presets`.

    ``config.rl`` has a key of the same name for each part. Settings that a part does not read have no effect.
    """

    # Advantages: objectives.advantages.ADVANTAGES
    advantage: str = "grpo"
    std_eps: float = 1e-4  # added to a standard deviation that rewards are divided by
    singleton: str = "zero"  # a group with one scored response: zero (advantage 0) | raw (its reward: mean 0, std 1)
    gamma: float = 1.0  # discount of the return-to-go
    gae_lambda: float = 0.95
    whitened_mean: str = "removed"  # removed | kept (added back after whitening: MAYE)
    statistics_parts: int = 1  # whitening statistics of each of so many equal parts of the batch (MAYE: its ranks)
    # PPO's value head, with the advantage "gae"
    value_coefficient: float = 0.1  # of the value loss in the loss
    value_clip: float = 0.5  # largest change of a value in an update that lowers its loss; 0: any
    # Losses: RATIOS, CLIPS, AGGREGATIONS of objectives.policy_losses
    ratio: str = "token"
    clip: str = "ppo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_cap: float = 3.0  # of the clip "dual"
    sapo_temperatures: tuple[float, ...] = (1.0, 1.05)  # advantage above 0, else
    vespo_shape: tuple[float, ...] = (2.0, 3.0, 3.0, 2.0)  # k and λ at A >= 0, k and λ below
    aggregation: str = "token_mean"
    # Divergence from the reference: KL of objectives.divergences
    kl: str = "k3"
    kl_in: str = "loss"  # loss | reward
    kl_coefficient: float = 0.0  # 0: no reference model
    kl_clamp: str = "none"  # none | token (±10 each) | mean (±10 of a micro-batch's mean, after the mean: MAYE)
    # Correction between sampler and trainer: objectives.importance.MODES
    importance: str = "none"
    importance_low: float = 0.0
    importance_high: float = 2.0
    # Which responses are trained with: objectives.filters.FILTERS
    filter: str = "none"
    filter_low: float = 0.0
    filter_high: float = 1.0
    # Perception: objectives.perception.TOKEN_WEIGHTS; PAPO's γ; and damaged images
    token_weights: str = "none"
    perception_coefficient: float = 0.0  # γ of the divergence from the masked view; 0: none
    masked_share: float = 0.6  # of the squares of 14 pixels that the masked view lacks
    noise_share: float = 0.0  # of the responses of a group that are sampled from noised images (NoisyRollout)
    noise_start: float = 500.0  # diffusion step of the noise when training starts, of 1,000
    noise_rate: float = 30.0  # steepness of its decay
    noise_middle: float = 2 / 3  # share of all steps at which half of it is left
    entropy_coefficient: float = 0.0  # bonus on the entropy; below 0 a penalty
    off_policy_threshold: float = 0.0  # OPSM's δ, nats per token; 0: off
