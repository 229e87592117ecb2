"""vLLM servers as a rollout engine."""

from pivot_jax.rollout.vllm.client import VLLM, Servers
from pivot_jax.rollout.vllm.server import Limits, Server

__all__ = ["VLLM", "Limits", "Server", "Servers"]
