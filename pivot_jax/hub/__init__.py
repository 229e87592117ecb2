"""Hugging Face checkpoints in and out."""

from pivot_jax.hub import adapter
from pivot_jax.hub.chat import dialect_and_system
from pivot_jax.hub.configs import read as read_config
from pivot_jax.hub.families import HubModel, summary
from pivot_jax.hub.load import from_hub, load_params
from pivot_jax.hub.save import ExportOptions, ExportText, export_decoder, export_encoder, export_mllm, export_qwen_vl
from pivot_jax.hub.snapshot import folder_of

__all__ = [
    "ExportOptions",
    "ExportText",
    "HubModel",
    "adapter",
    "dialect_and_system",
    "export_decoder",
    "export_encoder",
    "export_mllm",
    "export_qwen_vl",
    "folder_of",
    "from_hub",
    "load_params",
    "read_config",
    "summary",
]
