"""PIVOT-JAX: does preference RL make a multimodal LLM see better than SFT? The whole pipeline, in JAX."""

__version__ = "0.1.0"
